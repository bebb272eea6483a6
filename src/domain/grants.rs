//! What API keys and session tokens allow: small sets of named rights.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Defines an enum of rights, and the set of them as the bits of one byte.
macro_rules! rights {
    (
        $(#[$right_meta:meta])* $right:ident { $($(#[$meta:meta])* $name:ident = $bit:literal,)+ }
        $(#[$set_meta:meta])* $set:ident, $what:literal
    ) => {
        $(#[$right_meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[non_exhaustive]
        pub enum $right {
            $($(#[$meta])* $name,)+
        }

        impl $right {
            /// All of them.
            pub const ALL: &'static [$right] = &[$($right::$name),+];

            const fn bit(self) -> u8 {
                match self {
                    $($right::$name => 1 << $bit,)+
                }
            }
        }

        impl fmt::Display for $right {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(match self {
                    $($right::$name => stringify!($name),)+
                })
            }
        }

        $(#[$set_meta])*
        #[derive(Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
        #[serde(try_from = "u8", into = "u8")]
        pub struct $set(u8);

        impl $set {
            /// The empty set.
            pub const NONE: $set = $set(0);
            /// All of them.
            pub const ALL: $set = $set($($right::$name.bit())|+);

            /// Whether `right` is in the set.
            #[must_use]
            pub const fn contains(self, right: $right) -> bool {
                self.0 & right.bit() != 0
            }

            /// The set and `right`.
            #[must_use]
            pub const fn with(self, right: $right) -> Self {
                Self(self.0 | right.bit())
            }

            /// Whether it has none.
            #[must_use]
            pub const fn is_empty(self) -> bool {
                self.0 == 0
            }

            /// Its members, in the order in which they are declared.
            pub fn iter(self) -> impl Iterator<Item = $right> {
                $right::ALL.iter().copied().filter(move |right| self.contains(*right))
            }

            #[allow(dead_code, reason = "permissions are encoded by serde, grants by hand")]
            pub(crate) const fn bits(self) -> u8 {
                self.0
            }

            /// `None` when a bit stands for nothing.
            pub(crate) const fn from_bits(bits: u8) -> Option<Self> {
                if bits & !Self::ALL.0 == 0 { Some(Self(bits)) } else { None }
            }
        }

        impl From<$right> for $set {
            fn from(right: $right) -> Self {
                Self::NONE.with(right)
            }
        }

        impl<const N: usize> From<[$right; N]> for $set {
            fn from(rights: [$right; N]) -> Self {
                rights.into_iter().collect()
            }
        }

        impl FromIterator<$right> for $set {
            fn from_iter<I: IntoIterator<Item = $right>>(rights: I) -> Self {
                rights.into_iter().fold(Self::NONE, Self::with)
            }
        }

        impl From<$set> for u8 {
            fn from(set: $set) -> u8 {
                set.0
            }
        }

        impl TryFrom<u8> for $set {
            type Error = &'static str;

            fn try_from(bits: u8) -> Result<Self, Self::Error> {
                Self::from_bits(bits).ok_or(concat!("a bit that is none of the ", $what))
            }
        }

        impl fmt::Debug for $set {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.debug_set().entries(self.iter()).finish()
            }
        }
    };
}

rights!(
    /// One thing that a session token lets its bearer do, on its own linked account.
    Grant {
        /// List the account's connections, without secrets.
        ListConnections = 0,
        /// Connect a provider, or enter an API key, a password or named fields.
        Connect = 1,
        /// Remove a connection.
        Disconnect = 2,
    }
    /// What a session token lets its bearer do.
    ///
    /// ```
    /// use anchorhold::{Grant, Grants};
    /// let grants = Grants::from([Grant::ListConnections, Grant::Connect]);
    /// assert!(grants.contains(Grant::Connect) && !grants.contains(Grant::Disconnect));
    /// ```
    Grants, "grants"
);

rights!(
    /// One thing that an API key lets the host's backend do, in the key's environment.
    Permission {
        /// Create, list, change, disable and delete linked accounts, and read their audit.
        Accounts = 0,
        /// Mint and revoke session tokens, with any grant.
        Sessions = 1,
        /// Connect, add, list, refresh, relabel, replace and remove connections, and read provider settings.
        Connections = 2,
        /// Put credentials into requests toward the provider's allowed hosts, refreshing them when due. The request is the host's
        /// code's, which can read it.
        Use = 3,
        /// Read credentials in the clear.
        Reveal = 4,
        /// Create, list, rotate and revoke API keys and read their audit; change provider settings; rotate account keys.
        Keys = 5,
    }
    /// What an API key lets the host's backend do.
    ///
    /// ```
    /// use anchorhold::{Permission, Permissions};
    /// let minting = Permissions::from([Permission::Accounts, Permission::Sessions]);
    /// assert!(!minting.contains(Permission::Reveal));
    /// assert_eq!(format!("{minting:?}"), "{Accounts, Sessions}");
    /// ```
    Permissions, "permissions"
);

impl Permissions {
    /// Whether every permission of `other` is in this set too: what a key may pass on to another key.
    #[must_use]
    pub const fn covers(self, other: Permissions) -> bool {
        other.0 & !self.0 == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_has_what_was_put_in_and_nothing_else() {
        for bits in 0..=Permissions::ALL.bits() {
            let set = Permissions::from_bits(bits).unwrap();
            assert_eq!(set.iter().collect::<Permissions>(), set);
            assert_eq!(set.iter().count(), bits.count_ones() as usize);
        }
        assert_eq!(Permissions::ALL.iter().count(), Permission::ALL.len());
        assert!(Permissions::NONE.is_empty() && !Grants::ALL.is_empty());
    }

    #[test]
    fn bits_that_stand_for_nothing_are_refused() {
        assert_eq!(Grants::from_bits(0b1000), None);
        assert_eq!(Permissions::from_bits(0b0100_0000), None);
        assert!(crate::codec::decode::<Grants>(&crate::codec::encode(&0x80u8).unwrap()).is_err());
    }

    #[test]
    fn a_key_passes_on_no_more_than_it_has() {
        let some = Permissions::from([Permission::Use, Permission::Keys]);
        assert!(some.covers(Permission::Use.into()) && some.covers(Permissions::NONE) && some.covers(some));
        assert!(!some.covers(Permission::Reveal.into()) && !some.covers(Permissions::ALL));
    }
}
