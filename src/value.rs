//! Values written as text: in a flag, in an environment variable, or in the configuration file.
//!
//! **Promises.** All three places have the same parser and report the same allowed values.
//!
//! **Not here.** The values of the configuration (`config/values.rs`), the log filter (`logging/filter.rs`).

use std::str::FromStr;

/// A value that is parsed from text, by its `FromStr`.
pub(crate) trait TextValue {
    /// A description of the allowed values, to follow the word "expected".
    const EXPECTED: &'static str;
}

/// An invalid value. Its message describes the allowed values.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected {0}")]
pub struct InvalidValue(&'static str);

impl InvalidValue {
    /// The error for an invalid `T`.
    pub(crate) const fn of<T: TextValue>() -> Self {
        Self(T::EXPECTED)
    }
}

/// Parses the value of a flag.
///
/// # Errors
/// The value is not allowed.
pub(crate) fn parse<T: TextValue + FromStr>(text: &str) -> Result<T, InvalidValue> {
    text.parse().map_err(|_| InvalidValue::of::<T>())
}

/// Parses the value of a flag as a `T`, and converts it.
///
/// # Errors
/// The value is not allowed.
pub(crate) fn parse_into<T: TextValue + FromStr, U: From<T>>(
    text: &str,
) -> Result<U, InvalidValue> {
    parse::<T>(text).map(U::from)
}

/// Declares the texts of an enum without fields: `choices!(Mode { "on" => On, or "off" => Off });`. The description of the
/// allowed values lists them.
macro_rules! choices {
    ($name:ident { $first:literal => $one:ident, $( $text:literal => $variant:ident, )* or $last:literal => $other:ident }) => {
        impl $crate::value::TextValue for $name {
            const EXPECTED: &'static str = concat!(
                "\"", $first, "\"", $( ", \"", $text, "\"", )* " or \"", $last, "\""
            );
        }

        impl std::str::FromStr for $name {
            type Err = $crate::value::InvalidValue;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                match text {
                    $first => Ok(Self::$one),
                    $( $text => Ok(Self::$variant), )*
                    $last => Ok(Self::$other),
                    _ => Err($crate::value::InvalidValue::of::<Self>()),
                }
            }
        }
    };
}

pub(crate) use choices;
