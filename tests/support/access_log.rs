//! Lines of the access log of a sidecar, as text.

use super::Sidecar;

/// Waits for the line of a connection that has ended for this reason, and returns it.
pub(crate) fn line(sidecar: &mut Sidecar, reason: &str) -> String {
    let reason = format!("reason=\"{reason}\"");
    sidecar.until(&reason, |log| log.contains(&reason));
    sidecar.log().lines().find(|line| line.contains(&reason)).unwrap().to_owned()
}

/// Asserts that a line has each of these fields.
#[track_caller]
pub(crate) fn has_fields(line: &str, fields: &[&str]) {
    for field in fields {
        assert!(line.contains(&format!(" {field}")), "no {field} in {line}");
    }
}

/// Returns the number in a field of a line.
pub(crate) fn number(line: &str, key: &str) -> f64 {
    let value = line.split(&format!(" {key}=")).nth(1).unwrap_or_else(|| panic!("{key}: {line}"));
    value.split(' ').next().unwrap().parse().unwrap()
}
