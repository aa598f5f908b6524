//! The types that let serde read a [`TextValue`] or a number with a range.
//!
//! **Promises.** The message of an invalid value names the value and the allowed values.
//!
//! **Not here.** The values (`config/values.rs`), checks of several values together (`file.rs`).

use std::fmt;
use std::marker::PhantomData;
use std::str::FromStr;

use serde::de::{Deserialize, Deserializer, Error, Unexpected, Visitor};

use crate::value::{TextValue, choices};

/// A [`TextValue`], written as a TOML string.
pub(super) struct Text<T>(pub(super) T);

impl<'de, T: TextValue + FromStr> Deserialize<'de> for Text<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct TextVisitor<T>(PhantomData<T>);

        impl<T: TextValue + FromStr> Visitor<'_> for TextVisitor<T> {
            type Value = T;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(T::EXPECTED)
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<T, E> {
                text.parse().map_err(|_| E::invalid_value(Unexpected::Str(text), &self))
            }
        }

        deserializer.deserialize_str(TextVisitor(PhantomData)).map(Text)
    }
}

/// A whole number from `MIN` to `MAX`.
pub(super) struct Whole<const MIN: u32, const MAX: u32>(pub(super) u32);

impl<'de, const MIN: u32, const MAX: u32> Deserialize<'de> for Whole<MIN, MAX> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct WholeVisitor<const MIN: u32, const MAX: u32>;

        impl<const MIN: u32, const MAX: u32> Visitor<'_> for WholeVisitor<MIN, MAX> {
            type Value = u32;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "a whole number from {MIN} to {MAX}")
            }

            fn visit_i64<E: Error>(self, number: i64) -> Result<u32, E> {
                u32::try_from(number)
                    .ok()
                    .filter(|n| (MIN..=MAX).contains(n))
                    .ok_or_else(|| E::invalid_value(Unexpected::Signed(number), &self))
            }
        }

        deserializer.deserialize_i64(WholeVisitor::<MIN, MAX>).map(Whole)
    }
}

/// The value of `client_auth`. The trusted CAs are a key next to it.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum AuthChoice {
    #[default]
    None,
    Optional,
    Required,
}

choices!(AuthChoice { "none" => None, "optional" => Optional, or "required" => Required });
