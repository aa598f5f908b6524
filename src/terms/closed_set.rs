//! Enums whose values are the only ones that a metric label or a log field can take.
//!
//! **Not here.** The sets: `reason.rs`, `labels.rs`, and sets that only one module uses.

/// Declares a fieldless enum whose variants carry a stable label.
///
/// The enum gets `ALL`, `as_str`, `Display` and [`ClosedSet`], so that metric children exist for every value
/// from the start and no label is built from free text.
macro_rules! closed_set {
    (
        $(#[$enum_doc:meta])*
        $vis:vis enum $name:ident {
            $( $(#[$variant_doc:meta])* $variant:ident => $label:literal, )+
        }
    ) => {
        $(#[$enum_doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        $vis enum $name {
            $( $(#[$variant_doc])* $variant, )+
        }

        impl $name {
            /// Every value, in the order of declaration.
            $vis const ALL: &'static [Self] = &[ $( Self::$variant, )+ ];

            /// Returns the stable label.
            $vis const fn as_str(self) -> &'static str {
                match self {
                    $( Self::$variant => $label, )+
                }
            }
        }

        impl $crate::terms::closed_set::ClosedSet for $name {
            fn all() -> &'static [Self] {
                Self::ALL
            }

            fn label(self) -> &'static str {
                self.as_str()
            }

            fn index(self) -> usize {
                self as usize
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.as_str())
            }
        }
    };
}

pub(crate) use closed_set;

/// An enum of [`closed_set!`].
pub trait ClosedSet: Copy + 'static {
    /// Returns every value, in the order of declaration.
    fn all() -> &'static [Self];
    /// Returns the stable label.
    fn label(self) -> &'static str;
    /// Returns the index in [`Self::all`].
    fn index(self) -> usize;
}
