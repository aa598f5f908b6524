//! Variables of the environment in paths and addresses: `${NAME}`.
//!
//! **Promises.** A variable that is not set or empty is an error: without its host, an address would be that of all
//! interfaces. `$$` stands for `$`; a `$` before any other character stands for itself. The result is not expanded again.
//!
//! **Not here.** The keys that have variables (`sections.rs`).

use std::borrow::Cow;
use std::env::{self, VarError};

/// Replaces each `${NAME}` by the variable of the environment.
///
/// # Errors
/// A sentence about a variable that is not set or empty, or a name that is not valid.
pub(super) fn expand(text: &str) -> Result<Cow<'_, str>, String> {
    expand_by(text, |name| env::var(name))
}

fn expand_by(
    text: &str,
    variable: impl Fn(&str) -> Result<String, VarError>,
) -> Result<Cow<'_, str>, String> {
    let (mut expanded, mut rest) = (String::new(), text);
    while let Some((before, after)) = rest.split_once('$') {
        expanded.push_str(before);
        rest = if let Some(after) = after.strip_prefix('$') {
            expanded.push('$');
            after
        } else if let Some(after) = after.strip_prefix('{') {
            let named = after.split_once('}').filter(|(name, _)| is_name(name));
            let (name, after) = named.ok_or_else(|| {
                format!(
                    "found {text:?}, expected the name of a variable in each ${{NAME}}, or $$ for $"
                )
            })?;
            let value = variable(name).map_err(|error| missing(text, name, &error))?;
            if value.is_empty() {
                return Err(unusable(text, name, "is empty"));
            }
            expanded.push_str(&value);
            after
        } else {
            expanded.push('$');
            after
        };
    }
    if rest.len() == text.len() {
        return Ok(Cow::Borrowed(text));
    }
    expanded.push_str(rest);
    Ok(Cow::Owned(expanded))
}

/// Returns whether a shell could set a variable with this name (POSIX.1-2024, Base Definitions 3.216).
fn is_name(name: &str) -> bool {
    let is_part = |c: char| c.is_ascii_alphanumeric() || c == '_';
    name.chars().all(is_part) && !name.starts_with(|c: char| c.is_ascii_digit()) && !name.is_empty()
}

fn missing(text: &str, name: &str, error: &VarError) -> String {
    let what = match error {
        VarError::NotPresent => "is not set",
        VarError::NotUnicode(_) => "is not UTF-8",
    };
    unusable(text, name, what)
}

fn unusable(text: &str, name: &str, what: &str) -> String {
    format!("found {text:?}, but the environment variable {name} {what}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn expanded(text: &str) -> Result<String, String> {
        let variable = |name: &str| match name {
            "DIR" => Ok("/etc/${PORT}$$".to_owned()),
            "PORT" => Ok("8883".to_owned()),
            "EMPTY" => Ok(String::new()),
            _ => Err(VarError::NotPresent),
        };
        expand_by(text, variable).map(Cow::into_owned)
    }

    #[test]
    fn a_variable_is_replaced_once() {
        for (text, result) in [
            ("tls.crt", "tls.crt"),
            ("", ""),
            ("0.0.0.0:${PORT}", "0.0.0.0:8883"),
            ("${DIR}/tls.crt", "/etc/${PORT}$$/tls.crt"),
            ("${PORT}${PORT}", "88838883"),
            ("a$$b $c $", "a$b $c $"),
            ("$${PORT}", "${PORT}"),
        ] {
            assert_eq!(expanded(text).as_deref(), Ok(result), "{text}");
        }
    }

    #[test]
    fn a_variable_that_is_not_set_or_empty_is_an_error_and_so_is_a_bad_name() {
        assert!(expanded("/a/${UNSET}").unwrap_err().contains("UNSET"));
        assert!(expanded("${EMPTY}:9901").unwrap_err().contains("EMPTY is empty"));
        for bad in ["${", "${}", "${DIR", "${1}", "${DIR:-x}", "${A B}"] {
            assert!(expanded(bad).unwrap_err().contains(bad), "{bad}");
        }
    }
}
