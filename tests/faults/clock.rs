//! A system clock that jumps.

use std::os::unix::fs::FileExt;
use std::process::Command;

use tlsidecar::terms::reason::Reason;

use crate::support::certs::Wish;
use crate::support::client::say_and_hear;
use crate::support::command::has;
use crate::support::process::binary;
use crate::support::proxy::closed_series;
use crate::support::{Authority, Backend, Device, Sidecar, eventually, file};

/// A library that adds the seconds in a file to the system clock of one process.
const SHIFTED_CLOCK: &str = r#"
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

static volatile long *shift;

__attribute__((constructor)) static void open_shift(void) {
    int file = open(getenv("CLOCK_SHIFT"), O_RDONLY);
    shift = mmap(NULL, sizeof *shift, PROT_READ, MAP_SHARED, file, 0);
    close(file);
}

int clock_gettime(clockid_t clock, struct timespec *now) {
    int failed = syscall(SYS_clock_gettime, clock, now);
    if (!failed && clock == CLOCK_REALTIME) now->tv_sec += *shift;
    return failed;
}
"#;

const DAY: i64 = 24 * 3600;
const YEAR: i64 = 365 * DAY;

/// A process whose system clock the test sets.
struct Shifted {
    sidecar: Sidecar,
    shift: std::fs::File,
}

impl Shifted {
    /// Starts it. Returns none, and reports the test as skipped, without a C compiler.
    fn start(authority: &Authority, text: &str) -> Option<Self> {
        if !has("cc") {
            return None;
        }
        let dir = authority.dir();
        let (source, library) = (dir.join("clock.c"), dir.join("clock.so"));
        std::fs::write(&source, SHIFTED_CLOCK).unwrap();
        let mut compiler = Command::new("cc");
        compiler.args(["-shared", "-fPIC", "-o"]).arg(&library).arg(&source);
        assert!(compiler.status().unwrap().success());
        let path = dir.join("shift");
        std::fs::write(&path, 0_i64.to_ne_bytes()).unwrap();
        let shift = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
        let mut command = binary();
        command.env("LD_PRELOAD", library).env("CLOCK_SHIFT", path);
        command.arg("--config").arg(file::write(dir, text));
        Some(Self { sidecar: Sidecar::run(command), shift })
    }

    /// Moves its clock to so many seconds after the machine's.
    fn move_to(&self, seconds: i64) {
        self.shift.write_all_at(&seconds.to_ne_bytes(), 0).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clock_that_jumps_ends_no_session_and_decides_who_has_expired() {
    let (authority, backend) = (Authority::new("ca"), Backend::echo().await);
    let tls = format!("tls.client_auth = \"required\"\ntls.client_ca = {:?}\n", authority.ca());
    let text = file::text(backend.address, &authority.server(), &tls);
    let Some(shifted) = Shifted::start(&authority, &text) else { return };
    let address = shifted.sidecar.address;
    let wish = Wish { years: (2020, 2040), ..Wish::of_device(&["pump"]) };
    let pair = authority.issue("pump", &wish);
    // Tickets from before a jump are offered after it.
    let devices =
        [Device::showing(&authority, &pair), Device::showing(&authority, &pair).resuming()];
    let mut kept = devices[0].echo(address).await.unwrap();
    for jump in [DAY, -DAY, 3 * DAY, 0, -YEAR, YEAR] {
        shifted.move_to(jump);
        say_and_hear(&mut kept, b"still here").await.unwrap();
        for device in &devices {
            device.echo(address).await.unwrap_or_else(|error| panic!("after {jump} s: {error}"));
        }
    }
    shifted.move_to(30 * YEAR);
    for device in &devices {
        assert!(device.echo(address).await.is_err());
    }
    let refused = || shifted.sidecar.count(&closed_series(Reason::ClientCertExpired));
    eventually("both are counted", || refused() == 2).await;
    shifted.move_to(0);
    for device in &devices {
        device.echo(address).await.unwrap();
    }
    assert_eq!(shifted.sidecar.count(&closed_series(Reason::Internal)), 0);
    assert!(!shifted.sidecar.log().contains("ERROR"), "{}", shifted.sidecar.log());
}
