//! `tlsidecar trace`: shows each step of a device's connections as it happens.
//!
//! **Promises.** Text of devices is escaped. Secrets are written to the file of `--keylog`, and with `--pcap-secrets` to that of
//! `--pcap`. Only their owner may read these files, and they are not made before the trace has begun.
//!
//! **Not here.** The request (`admin_client.rs`), the form of a step for people (`trace/text.rs`), the packets
//! of `--pcap` (`trace/capture.rs`).

mod capture;
mod pcapng;
mod text;

use std::fs::File;
use std::io::{self, Read as _, Write};
use std::ops::ControlFlow;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use hyper::Method;
use serde_json::Value;

use self::capture::Capture;
use super::admin_client::{AdminError, AdminPort, query};
use super::exit::Exit;
use super::flags::check::OutputFormat;
use super::flags::trace::TraceArgs;
use super::output::{complain, fail, print_next};
use super::stop::stop_signal;
use crate::text::{Shown, json_line};
use crate::{regular_file, runtime};

/// The outputs of a trace.
struct Steps<'a> {
    args: &'a TraceArgs,
    /// The file for secrets, once the trace has begun.
    keylog: Option<File>,
    /// The file for packets, once the trace has begun.
    capture: Option<Capture>,
    /// True after the line of the end; or the fault of an output.
    ended: Result<bool, io::Error>,
}

/// Shows the steps of the devices that the flags select, until the trace or a signal ends it.
#[must_use]
pub fn run(args: &TraceArgs) -> Exit {
    let runtime = match runtime::of_a_command() {
        Ok(runtime) => runtime,
        Err(error) => return fail(error, Exit::Failed),
    };
    let mut shown = Steps { args, keylog: None, capture: None, ended: Ok(false) };
    let followed = runtime.block_on(async {
        let stopped = stop_signal().map_err(|error| error.to_string())?;
        tokio::select! {
            biased;
            () = stopped => Ok(None),
            followed = follow(args, &mut shown) => Ok(Some(followed)),
        }
    });
    match followed.and_then(|followed| shown.end(followed)) {
        Ok(()) => Exit::Success,
        Err(error) => fail(error, Exit::Failed),
    }
}

async fn follow(args: &TraceArgs, shown: &mut Steps<'_>) -> Result<(), AdminError> {
    let TraceArgs { admin, selection, time, keylog, pcap, .. } = args;
    // A fraction of a second counts as a whole one.
    let seconds = time.as_secs() + u64::from(time.subsec_nanos() > 0);
    let mut keys = selection.keys();
    keys.push(("seconds", seconds.to_string()));
    if keylog.is_some() || args.pcap_secrets {
        keys.push(("keys", "true".to_owned()));
    }
    if pcap.is_some() {
        keys.push(("packets", args.pcap_bytes.to_string()));
    }
    let port = AdminPort::of(admin)?;
    port.follow(Method::POST, &query("/trace", &keys), |line| shown.line(line)).await
}

/// Opens a file that only its owner may read.
fn private(path: &Path) -> io::Result<File> {
    regular_file::append_private(path)
        .map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", Shown(path))))
}

/// Begins a capture in a file, which is new or has one already.
fn begin_capture(path: &Path, has_secrets: bool, bytes: u64) -> io::Result<Capture> {
    let file = private(path)?;
    let invalid = |text: String| {
        io::Error::new(io::ErrorKind::InvalidData, format!("{}: {text}", Shown(path)))
    };
    let (written, _) = regular_file::open(path).map_err(|error| invalid(error.to_string()))?;
    let mut start = Vec::new();
    written.take(4).read_to_end(&mut start)?;
    if !start.is_empty() && start != pcapng::SECTION_HEADER.to_le_bytes() {
        return Err(invalid(
            "it is no pcapng file, and --pcap adds to such a file only".to_owned(),
        ));
    }
    Capture::begin(file, has_secrets, bytes)
}

/// Returns whether two paths are the same file.
fn is_same(one: &Path, other: &Path) -> bool {
    let place = |path: &Path| path.metadata().map(|file| (file.dev(), file.ino())).ok();
    one == other || place(one).is_some_and(|one| Some(one) == place(other))
}

impl Steps<'_> {
    /// Shows a line of the answer.
    fn line(&mut self, line: &str) -> ControlFlow<()> {
        // An empty line is a heartbeat. A line that is not JSON is of a later version.
        let Ok(step) = serde_json::from_str::<Value>(line) else {
            return ControlFlow::Continue(());
        };
        match self.step(&step) {
            Ok(ControlFlow::Continue(())) => return ControlFlow::Continue(()),
            Ok(ControlFlow::Break(())) => self.ended = Ok(true),
            Err(error) => self.ended = Err(error),
        }
        ControlFlow::Break(())
    }

    /// Shows a step. Breaks if the reader of the output has left.
    fn step(&mut self, step: &Value) -> io::Result<ControlFlow<()>> {
        let kind = step["step"].as_str().unwrap_or_default();
        if kind == "started" && self.capture.is_none() && self.keylog.is_none() {
            self.begin()?;
        }
        if let Some(capture) = &mut self.capture {
            capture.step(kind, step)?;
        }
        match kind {
            "key" => self.key(step["line"].as_str().unwrap_or_default()).map(ControlFlow::Continue),
            "packet" => Ok(ControlFlow::Continue(())),
            kind => {
                self.ended = Ok(kind == "ended");
                match (self.args.output, kind) {
                    (OutputFormat::Json, _) => {
                        print_next(format!("{}\n", json_line(&step.to_string())))
                    }
                    (OutputFormat::Text, "started" | "truncated" | "ended") => {
                        complain(text::frame(step));
                        Ok(ControlFlow::Continue(()))
                    }
                    (OutputFormat::Text, _) => print_next(text::step(step) + "\n"),
                }
            }
        }
    }

    /// Opens the files.
    fn begin(&mut self) -> io::Result<()> {
        let TraceArgs { keylog, pcap, pcap_secrets, pcap_bytes, .. } = self.args;
        if let (Some(keylog), Some(pcap)) = (keylog, pcap)
            && is_same(keylog, pcap)
        {
            let text = format!("{}: --keylog and --pcap are the same file", Shown(pcap));
            return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
        }
        let capture = pcap.as_deref().map(|path| begin_capture(path, *pcap_secrets, *pcap_bytes));
        self.capture = capture.transpose()?;
        self.keylog = keylog.as_deref().map(private).transpose()?;
        Ok(())
    }

    /// Completes the files at the end of the answer, or at a signal, which is none. Returns the fault of the trace.
    fn end(self, followed: Option<Result<(), AdminError>>) -> Result<(), String> {
        let mut capture = self.capture;
        let completed = capture.as_mut().map_or(Ok(()), Capture::end);
        let invalid = capture.as_ref().map_or(0, Capture::invalid);
        let is_stopped = followed.is_none();
        followed.transpose().map_err(|error| error.to_string())?;
        let ended = self.ended.and_then(|ended| completed.map(|()| ended));
        match ended.map_err(|error| format!("cannot write: {error}"))? {
            false if !is_stopped => Err("the process has ended before the trace".to_owned()),
            _ if invalid > 0 => Err(format!(
                "{invalid} packet(s) are not in the capture: no admin port sends such ones"
            )),
            _ => Ok(()),
        }
    }

    fn key(&mut self, line: &str) -> io::Result<()> {
        match &mut self.keylog {
            Some(file) => file.write_all(format!("{line}\n").as_bytes()),
            None => Ok(()),
        }
    }
}
