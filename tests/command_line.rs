//! The command line of a run and of `check`.

use std::os::unix::fs::PermissionsExt;

use tlsidecar::commands::flags::{self, examples};

use crate::support::certs::Wish;
use crate::support::command::output;
use crate::support::process::binary;
use crate::support::{Authority, Backend, Device, Sidecar, file};

/// A valid configuration file; with `warns`, a key that others can read.
async fn valid(warns: bool) -> (Authority, Backend, std::path::PathBuf) {
    let (authority, backend) = (Authority::new("ca"), Backend::echo().await);
    let text = file::text(backend.address, &authority.server(), "");
    let path = file::write(authority.dir(), &text);
    let mode = std::fs::Permissions::from_mode(if warns { 0o644 } else { 0o600 });
    std::fs::set_permissions(authority.dir().join("server.key"), mode).unwrap();
    (authority, backend, path)
}

#[test]
fn without_arguments_it_says_how_to_start() {
    let (code, _, stderr) = output(binary().arg("--admin=127.0.0.1:0"));
    assert_eq!(code, 2);
    assert!(stderr.contains("--listen"), "what is missing: {stderr}");
    let (code, _, stderr) = output(&mut binary());
    assert_eq!(code, 2);
    for way in ["--config", "--listen", "tlsidecar demo", "--help"] {
        assert!(stderr.contains(way), "{stderr}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_configuration_file_can_be_named_in_each_way() {
    let (_authority, _backend, path) = valid(false).await;
    for flags in [&["check"][..], &["check", "-c"], &["check", "--config"]] {
        let (code, stdout, stderr) = output(binary().args(flags).arg(&path));
        assert_eq!((code, stderr.contains("warning: ")), (0, false), "{flags:?}");
        assert!(stdout.contains("good, 1 listener"), "{stdout}");
    }
    // What is typed counts more than the environment.
    let (code, _, stderr) =
        output(binary().env("TLSIDECAR_CONFIG", "/nonexistent").arg("check").arg(&path));
    assert_eq!(code, 0, "{stderr}");
    let (code, _, _) = output(binary().env("TLSIDECAR_CONFIG", &path).args(["check", "--strict"]));
    assert_eq!(code, 0);
    let both = binary().arg("check").arg(&path).arg("-c").arg(&path).output().unwrap();
    assert_eq!(both.status.code(), Some(2));
}

#[tokio::test(flavor = "multi_thread")]
async fn warnings_of_a_check_are_separate_and_fail_a_strict_one() {
    let (_authority, _backend, path) = valid(true).await;
    let (code, stdout, stderr) = output(binary().arg("check").arg(&path));
    assert_eq!(code, 0);
    assert!(stderr.starts_with("warning: ") && !stdout.contains("warning: "), "{stderr}{stdout}");
    assert!(stdout.ends_with(": good, 1 listener(s), 1 warning\n"), "{stdout}");
    let (code, stdout, stderr) = output(binary().args(["check", "--strict"]).arg(&path));
    assert_eq!(code, 78);
    assert!(
        stderr.contains("1 warning, and --strict") && !stdout.contains("good"),
        "{stderr}{stdout}"
    );
    let (_authority, _backend, path) = valid(false).await;
    assert_eq!(output(binary().args(["check", "--strict"]).arg(&path)).0, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_format_of_the_log_can_be_a_flag() {
    let (_authority, _backend, path) = valid(false).await;
    let mut command = binary();
    command.arg("-c").arg(&path).arg("--log-format=json");
    let mut sidecar = Sidecar::run(command);
    sidecar.until("it logs", |log| log.lines().next().is_some_and(|line| line.starts_with('{')));
    let (code, _, stderr) = output(binary().arg("-c").arg(&path).arg("--log-format=xml"));
    assert_eq!(code, 2);
    assert!(stderr.contains("json"), "{stderr}");
}

/// A configuration with problems at these places.
const INVALID: &str = "[log]\nformat = \"xml\"\n[[listener]]\nname = \"mqtt\"\nlisten = \"localhost:8883\"\n\
                       backend = \"127.0.0.1:1883\"\ntls.certificates = [{ cert = \"no.crt\", key = \"no.key\" }]\n";

#[test]
fn a_check_reports_each_problem_as_json() {
    let dir = tempfile::tempdir().unwrap();
    let path = file::write(dir.path(), INVALID);
    let (code, stdout, stderr) = output(binary().args(["check", "--output=json"]).arg(&path));
    assert_eq!((code, stderr.as_str()), (78, ""));
    let report: serde_json::Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!(report["valid"], false);
    let problems = report["problems"].as_array().unwrap();
    let keys: Vec<_> = problems.iter().map(|problem| problem["key"].as_str().unwrap()).collect();
    let pair = "listener[0].tls.certificates[0]";
    assert_eq!(keys, ["log.format", &format!("{pair}.cert"), &format!("{pair}.key")]);
    let first = &problems[0];
    assert_eq!((&first["line"], &first["column"]), (&2.into(), &10.into()));
    assert_eq!(first["file"], path.to_str().unwrap());
    assert_eq!(first["found"], "string \"xml\"");
    assert_eq!(first["expected"], "\"text\" or \"json\"");
    let (code, stdout, stderr) = output(binary().arg("check").arg(&path));
    assert_eq!((code, stdout.as_str()), (78, ""));
    assert!(stderr.ends_with(": 3 problems\n"), "{stderr}");
}

/// Returns `found` and `expected` of the only problem of a listener with this line for its backend, and the problem.
fn only_problem(line: &str) -> (serde_json::Value, serde_json::Value, serde_json::Value) {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("a.pem"), "").unwrap();
    let text = INVALID.replace("xml", "json").replace("backend = \"127.0.0.1:1883\"", line);
    let path = file::write(dir.path(), &text.replace("no.crt", "a.pem").replace("no.key", "a.pem"));
    let mut check = binary();
    check.env("BARE_HERE", "a").args(["check", "--output=json"]).arg(&path);
    let (code, stdout, stderr) = output(&mut check);
    assert_eq!((code, stderr.as_str()), (78, ""), "{stdout}");
    let mut report: serde_json::Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!(report["problems"].as_array().unwrap().len(), 1, "{stdout}");
    let mut problem = report["problems"][0].take();
    (problem["found"].take(), problem["expected"].take(), problem)
}

#[test]
fn what_a_check_found_is_the_value_alone_or_null() {
    let own = "\"localhost:8883\"";
    for (line, found, has_expected) in [
        ("backend = \"localhost:8883\"", own.into(), true),
        ("backend = [\"a:1\", \"a:1\"]", "\"a:1\"".into(), false),
        ("backend = \"a\\\"b, expected c\"", "string \"a\\\"b, expected c\"".into(), true),
        ("backend = \"${BARE_HERE}\"", "string \"${BARE_HERE}\"".into(), true),
        ("backend = 7", "integer `7`".into(), true),
        ("backend = broker:1883", "broker:1883".into(), true),
        ("backend = []", serde_json::Value::Null, true),
        ("backend = \"a:1\"\nnonsense = 1", "`nonsense`".into(), true),
    ] {
        let (value, expected, problem) = only_problem(line);
        assert_eq!(value, found, "{line}: {problem}");
        assert_eq!(expected.is_string(), has_expected, "{line}: {problem}");
    }
}

#[test]
fn an_empty_variable_is_a_problem_and_not_an_address_without_its_host() {
    let dir = tempfile::tempdir().unwrap();
    let path =
        file::write(dir.path(), &format!("[admin]\nlisten = \"${{EMPTY_HERE}}:9901\"\n{INVALID}"));
    let mut check = binary();
    check.env("EMPTY_HERE", "").args(["check", "--output=json"]).arg(&path);
    let (code, stdout, _) = output(&mut check);
    let report: serde_json::Value = serde_json::from_str(&stdout).unwrap();
    let problem = &report["problems"][0];
    assert_eq!((code, problem["key"].as_str()), (78, Some("admin.listen")), "{stdout}");
    assert_eq!((&problem["line"], &problem["column"]), (&2.into(), &10.into()));
    assert_eq!(problem["found"], "\"${EMPTY_HERE}:9901\"");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_report_of_a_check_that_cannot_be_written_is_a_failure_but_for_a_closed_pipe() {
    let (_authority, _backend, path) = valid(false).await;
    for flags in [vec![], vec!["--output=json"]] {
        let run = |stdout: std::process::Stdio| {
            let mut check = binary();
            let output = check.arg("check").args(&flags).arg(&path).stdout(stdout).output();
            output.unwrap()
        };
        let full = run(std::fs::File::create("/dev/full").unwrap().into());
        assert_eq!(full.status.code(), Some(1), "{flags:?}: {full:?}");
        assert!(!full.stderr.is_empty(), "{flags:?}: {full:?}");
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let closed = run(writer.into());
        assert_eq!(closed.status.code(), Some(0), "{flags:?}: {closed:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_check_reports_warnings_and_problems_of_files_as_json() {
    let (_authority, _backend, path) = valid(true).await;
    let json = |strict: bool| {
        let mut command = binary();
        command.args(["check", "--output", "json"]).args(strict.then_some("--strict")).arg(&path);
        let (code, stdout, _) = output(&mut command);
        (code, serde_json::from_str::<serde_json::Value>(&stdout).unwrap())
    };
    let (code, report) = json(false);
    assert_eq!((code, &report["valid"], &report["listeners"]), (0, &true.into(), &1.into()));
    let warning = &report["warnings"][0];
    assert_eq!(warning["listener"], "test");
    let key = path.with_file_name("server.key");
    assert_eq!(warning["file"], key.to_str().unwrap());
    let (code, report) = json(true);
    assert_eq!((code, &report["valid"]), (78, &false.into()));
    std::fs::write(&key, "-----BEGIN PRIVATE KEY-----\n!\n-----END PRIVATE KEY-----\n").unwrap();
    let (code, report) = json(false);
    let problem = &report["problems"][0];
    assert_eq!((code, problem["file"].as_str()), (78, key.to_str()));
    assert!(problem["line"].is_u64(), "{report}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_check_takes_the_flags_of_a_run() {
    let (authority, backend) = (Authority::new("ca"), Backend::echo().await);
    let pair = authority.server().files;
    let flags = |listen: String| {
        let mut command = binary();
        command.args(["check", "--listen", &listen, "--backend", &backend.address.to_string()]);
        command.arg("--cert").arg(&pair.cert).arg("--key").arg(&pair.key);
        command
    };
    let (code, stdout, stderr) = output(&mut flags("localhost:0".to_owned()));
    assert_eq!(code, 0, "{stderr}");
    assert!(stdout.contains("good, 1 listener"), "{stdout}");
    let (code, _, stderr) = output(&mut flags(format!(":{}", backend.address.port())));
    assert_eq!(code, 78);
    assert!(stderr.contains("own address"), "{stderr}");
    let (code, _, stderr) = output(flags(":0".to_owned()).args(["--admin", "off", "a.toml"]));
    assert_eq!(code, 2, "{stderr}");
    let (code, _, stderr) = output(binary().arg("check"));
    assert_eq!(code, 2);
    assert!(stderr.contains("--config"), "{stderr}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_is_typed_counts_and_not_the_flags_in_the_environment() {
    let (_authority, _backend, path) = valid(false).await;
    let mut command = binary();
    command.env("TLSIDECAR_LISTEN", "nonsense").env("TLSIDECAR_ADMIN", "nonsense");
    let (code, _, stderr) =
        output(command.args(["check", "--output", "json", "--root", "/"]).arg(&path));
    assert_eq!(code, 0, "{stderr}");
}

/// Runs a command with this text as standard input, and returns its exit code and both outputs.
fn with_input(command: &mut std::process::Command, text: &str) -> (i32, String) {
    use std::io::Write;
    use std::process::Stdio;
    let mut child = command.stdin(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    (output.status.code().unwrap(), text.into_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_check_reads_standard_input_with_paths_relative_to_the_working_directory() {
    let (authority, backend) = (Authority::new("ca"), Backend::echo().await);
    let pair = authority.server();
    let text = file::text(backend.address, &pair, "");
    let directory = format!("{:?}", pair.files.cert);
    let relative = text.replace(&directory, "\"server.crt\"");
    assert_ne!(text, relative);
    for name in [&["check", "-"][..], &["check", "--config", "-"]] {
        let (code, output) =
            with_input(binary().args(name).current_dir(authority.dir()), &relative);
        assert_eq!(code, 0, "{output}");
        assert!(output.contains("<stdin>: good"), "{output}");
    }
    let (code, output) = with_input(binary().args(["check", "-"]), "[log]\nformat = 1\n");
    assert_eq!(code, 78);
    assert!(output.contains("<stdin>:2:10: log.format"), "{output}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_reads_its_configuration_from_standard_input_once_and_reloads_its_files() {
    let (authority, backend) = (Authority::new("ca"), Backend::echo().await);
    let pair = authority.server();
    let text = authority.dir().join("text");
    std::fs::write(&text, file::text(backend.address, &pair, "")).unwrap();
    let mut command = binary();
    command.args(["--config", "-"]).stdin(std::fs::File::open(&text).unwrap());
    let mut sidecar = Sidecar::run(command);
    let before = std::fs::read(&pair.files.cert).unwrap();
    let (_, reloaded) = sidecar.ask("POST", "/reload").unwrap();
    assert_eq!(reloaded.lines().next(), Some("unchanged"));
    authority.server();
    assert_ne!(std::fs::read(&pair.files.cert).unwrap(), before);
    sidecar.until("it is reloaded", |log| log.matches("certificate in force").count() == 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_check_looks_up_absolute_paths_below_a_root() {
    let (authority, backend) = (Authority::new("ca"), Backend::echo().await);
    let pair = authority.server();
    let root = tempfile::tempdir().unwrap();
    let tls = root.path().join("etc/tls");
    std::fs::create_dir_all(&tls).unwrap();
    std::fs::copy(&pair.files.cert, tls.join("tls.crt")).unwrap();
    std::fs::copy(&pair.files.key, tls.join("tls.key")).unwrap();
    let text = format!(
        "[[listener]]\nname = \"test\"\nlisten = \":0\"\nbackend = \"{}\"\n\
         tls.certificates = [{{ cert = \"/etc/tls/tls.crt\", key = \"tls.key\" }}]\n",
        backend.address
    );
    // A relative path is relative to the file, wherever that is.
    let path = file::write(&tls, &text);
    let check = |root: Option<&std::path::Path>| {
        let root =
            root.into_iter().flat_map(|root| [std::ffi::OsStr::new("--root"), root.as_os_str()]);
        output(binary().arg("check").args(root).arg(&path))
    };
    let (code, _, stderr) = check(Some(root.path()));
    assert_eq!(code, 0, "{stderr}");
    let (code, _, stderr) = check(None);
    assert_eq!(code, 78);
    assert!(stderr.contains("\"/etc/tls/tls.crt\""), "{stderr}");
    let flags =
        ["--listen=:0", "--backend=a:1", "--cert=/etc/tls/tls.crt", "--key=/etc/tls/tls.key"];
    let (code, _, stderr) =
        output(binary().arg("check").args(flags).arg("--root").arg(root.path()));
    assert_eq!(code, 0, "{stderr}");
}

#[test]
fn the_version_names_its_sources_and_its_compiler_on_request() {
    let (code, short, _) = output(binary().arg("--version"));
    assert_eq!((code, short.lines().count()), (0, 1));
    for flags in [["--version", "--verbose"], ["-v", "-V"]] {
        let (code, text, _) = output(binary().args(flags));
        assert_eq!(code, 0);
        let mut lines = text.lines();
        assert_eq!(lines.next(), Some(short.trim()));
        let names: Vec<_> = lines.map(|line| line.split(' ').next().unwrap()).collect();
        assert_eq!(names, ["commit", "target", "rustc", "rustls", "aws-lc-rs", "aws-lc-sys"]);
        assert!(text.contains("rustls      0.23"), "{text}");
    }
    assert_eq!(output(binary().arg("--verbose")).0, 2);
}

#[test]
fn every_command_has_examples_and_each_of_them_is_a_valid_command_line() {
    let command = flags::command();
    let names = command.get_subcommands().map(clap::Command::get_name);
    for name in names.chain(["tlsidecar"]).filter(|name| *name != "help") {
        assert!(!examples::of(name).is_empty(), "{name}");
        for (_, line) in examples::of(name) {
            let parsed = flags::command().try_get_matches_from(line.split(' '));
            assert!(parsed.is_ok(), "{line}: {}", parsed.unwrap_err());
        }
    }
    let (_, help, _) = output(binary().args(["check", "--help"]));
    assert!(help.contains("tlsidecar check --root rootfs tlsidecar.toml"), "{help}");
}

#[test]
fn the_manual_has_sections_beyond_the_flags_and_a_page_of_the_file() {
    let dir = tempfile::tempdir().unwrap();
    assert_eq!(output(binary().arg("man").arg("--dir").arg(dir.path())).0, 0);
    let page = |name: &str| std::fs::read_to_string(dir.path().join(name)).unwrap();
    let main = page("tlsidecar.1");
    for section in [
        "\"SIGNALS\"",
        "\"ENVIRONMENT\"",
        "\"FILES\"",
        "EXAMPLES",
        "\"SEE ALSO\"",
        "\"EXIT STATUS\"",
    ] {
        assert!(main.contains(&format!(".SH {section}\n")), "{section}: {main}");
    }
    assert!(page("tlsidecar-check.1").contains("tlsidecar check \\-\\-root"));
    let file = page("tlsidecar.toml.5");
    assert!(file.starts_with(".TH tlsidecar.toml 5\n"), "{file}");
    for key in [
        "\\fBmax_hello_bytes\\fR = \"64KiB\"\nthe longest ClientHello",
        ".SS [listener.tls.guards]",
    ] {
        assert!(file.contains(key), "{key}: {file}");
    }
    // No line of text begins with markup that is none.
    let markup = |line: &&str| line.starts_with('.');
    let known = [".TH", ".SH", ".SS", ".TP", ".PP", ".EX", ".EE"];
    assert!(
        file.lines().filter(markup).all(|line| known.contains(&line.split(' ').next().unwrap()))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_without_its_issuer_is_a_notice_that_strict_ignores() {
    let (_authority, _backend, path) = valid(false).await;
    let (code, stdout, stderr) = output(binary().args(["check", "--strict"]).arg(&path));
    assert_eq!(code, 0);
    assert!(stderr.starts_with("notice: ") && stderr.contains("server.crt"), "{stderr}");
    assert!(stdout.ends_with("good, 1 listener(s)\n"), "{stdout}");
    let (_, stdout, _) = output(binary().args(["check", "--output=json"]).arg(&path));
    let report: serde_json::Value = serde_json::from_str(&stdout).unwrap();
    let cert = path.with_file_name("server.crt");
    assert_eq!(report["notices"][0]["file"], cert.to_str().unwrap());
    assert_eq!(report["warnings"], serde_json::json!([]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reload_logs_another_key_type_with_the_handshakes_of_the_earlier_one() {
    let (authority, backend) = (Authority::new("ca"), Backend::echo().await);
    let wish = Wish { rsa: true, ..Wish::default() };
    let pair = authority.issue("server", &wish);
    let text = file::text(backend.address, &pair, "");
    let mut sidecar = Sidecar::start(authority.dir(), &text);
    let log = sidecar.log();
    let line = log.lines().find(|line| line.contains("certificate in force")).unwrap();
    assert!(line.contains("key=\"rsa\"") && line.contains("certificates=1"), "{line}");
    Device::new(&authority).echo(sidecar.address).await.unwrap();
    authority.issue("server", &Wish::default());
    sidecar.until("it is reloaded", |log| {
        let mut lines = log.lines().filter(|line| line.contains("the key type of the certificate"));
        lines.any(|line| {
            ["old=\"rsa\"", "new=\"ecdsa\"", "handshakes=1"].iter().all(|word| line.contains(word))
        })
    });
}
