//! The members of a JSON object, each kept as it is written and read on its own.
//!
//! Real providers send numbers as texts, lists for texts and null for what is missing; one odd member must not cost the tokens,
//! which may be spent by then. Nothing is copied that was not asked for.

use std::borrow::Cow;
use std::fmt;

use secrecy::SecretString;
use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

/// The members of one object, in their order.
pub(super) struct Members<'a>(Vec<(Cow<'a, str>, &'a RawValue)>);

impl<'a> Members<'a> {
    /// `None` when `bytes` are not one JSON object, or it names a member twice: readers disagree about which of them counts.
    pub(super) fn read(bytes: &'a [u8]) -> Option<Self> {
        // Some servers put a byte order mark in front, which RFC 8259 section 8.1 lets readers ignore.
        let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
        Self::distinct(serde_json::from_slice(bytes).ok()?)
    }

    /// The member as an object.
    pub(super) fn object(&self, name: &str) -> Option<Self> {
        Self::of(self.get(name)?)
    }

    /// The value as an object; of a list its first element.
    pub(super) fn of(value: &'a RawValue) -> Option<Self> {
        if value.get().starts_with('[') {
            let elements: Vec<&'a RawValue> = serde_json::from_str(value.get()).ok()?;
            return Self::distinct(serde_json::from_str(elements.first()?.get()).ok()?);
        }
        Self::distinct(serde_json::from_str(value.get()).ok()?)
    }

    /// The member, unless it is missing or null.
    pub(super) fn get(&self, name: &str) -> Option<&'a RawValue> {
        let (_, value) = self.0.iter().find(|(known, _)| known == name)?;
        Some(*value).filter(|value| value.get() != "null")
    }

    /// The member as a text, if it is one.
    pub(super) fn text(&self, name: &str) -> Option<Cow<'a, str>> {
        text(self.get(name)?)
    }

    fn distinct(members: Self) -> Option<Self> {
        let mut names: Vec<&str> = members.0.iter().map(|(name, _)| &**name).collect();
        names.sort_unstable();
        names.windows(2).all(|pair| pair[0] != pair[1]).then_some(members)
    }
}

/// The value as a text, if it is one.
pub(super) fn text(value: &RawValue) -> Option<Cow<'_, str>> {
    serde_json::from_str::<Text<'_>>(value.get()).ok().map(|text| text.0)
}

/// The value as a secret text, if it is one. A text with escapes is put together in a buffer of serde's that is not wiped (tier 2 of
/// the promise); one without is copied once, into the secret.
pub(super) fn secret(value: &RawValue) -> Option<SecretString> {
    serde_json::from_str::<SecretText>(value.get()).ok().map(|text| text.0)
}

#[derive(Deserialize)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

struct SecretText(SecretString);

impl<'de> Deserialize<'de> for SecretText {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_str(SecretVisitor)
    }
}

struct SecretVisitor;

impl Visitor<'_> for SecretVisitor {
    type Value = SecretText;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a text")
    }

    fn visit_str<E>(self, text: &str) -> Result<SecretText, E> {
        Ok(SecretText(SecretString::from(Box::<str>::from(text))))
    }
}

impl<'de> Deserialize<'de> for Members<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(MembersVisitor)
    }
}

struct MembersVisitor;

impl<'de> Visitor<'de> for MembersVisitor {
    type Value = Members<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Members<'de>, A::Error> {
        let mut members = Vec::new();
        while let Some((Text(name), value)) = map.next_entry::<Text<'de>, &'de RawValue>()? {
            members.push((name, value));
        }
        Ok(Members(members))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use secrecy::ExposeSecret as _;

    #[test]
    fn members_are_read_one_by_one() {
        let members =
            Members::read(b"\xef\xbb\xbf{\"a\":1e999,\"\\u0062\":null,\"c\":\"x\\ny\",\"d\":{\"e\":[{\"f\":2}]}} ").unwrap();
        assert_eq!(members.get("a").unwrap().get(), "1e999");
        assert!(members.get("b").is_none() && members.get("z").is_none());
        assert_eq!(members.text("c").unwrap(), "x\ny");
        assert_eq!(secret(members.get("c").unwrap()).unwrap().expose_secret(), "x\ny");
        assert!(members.text("a").is_none() && secret(members.get("d").unwrap()).is_none());
        let list = members.object("d").unwrap().get("e").unwrap();
        assert_eq!(Members::of(list).unwrap().get("f").unwrap().get(), "2");
    }

    #[test]
    fn what_is_not_one_object_is_not_read() {
        for text in ["", "[]", "\"a\"", "{\"a\":1", "{} {}", "{\"a\":1,\"a\":2}", "{\"a\":1,\"\\u0061\":2}", "{a:1}", "<html>"] {
            assert!(Members::read(text.as_bytes()).is_none(), "{text}");
        }
        assert!(Members::read(b"{\"a\":\"\xff\"}").is_none());
        assert!(Members::read(b"{}").is_some());
    }
}
