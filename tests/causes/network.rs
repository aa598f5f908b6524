//! The network forgets an established connection.

use std::net::SocketAddr;

use tokio::net::TcpListener;

use crate::support::access_log::{has_fields, line, number};
use crate::support::client::say_and_hear;
use crate::support::network::{Link, Network};
use crate::support::{Authority, Backend, Device, backend};

/// A NAT without its entry drops the packets of both sides.
#[tokio::test(flavor = "multi_thread")]
async fn a_device_behind_a_nat_that_forgot_it_is_lost_and_not_reset() {
    let Some(network) = Network::new() else { return };
    let authority = Authority::new("ca");
    let address = SocketAddr::from((network.near(Link::Backends), 0));
    let backend = Backend::on(TcpListener::bind(address).await.unwrap(), backend::echo);
    let short = "tcp.keepalive = \"1s\"\ntcp.user_timeout = \"3s\"\n";
    let mut sidecar = network.sidecar(&authority, backend.address.port(), short);
    let mut session = Device::new(&authority).connect(sidecar.address).await.unwrap();
    say_and_hear(&mut session, b"a report").await.unwrap();
    network.lose(Link::Devices, 100);
    let line = line(&mut sidecar, "client_lost");
    has_fields(&line, &["bytes_to_backend=8", "bytes_to_client=8", "error="]);
    // It was silent before it was lost, and had its answer.
    assert!(number(&line, "last_to_client_ms") + 1000.0 < number(&line, "duration_ms"), "{line}");
    let lost =
        "tlsidecar_connections_closed_total{listener=\\\"test\\\",reason=\\\"client_lost\\\"} 1";
    // The admin port is in the namespace.
    let metrics = format!("http://{}/metrics", sidecar.admin);
    assert!(network.run(&format!("curl --silent {metrics} | grep --quiet \"{lost}\"")));
}
