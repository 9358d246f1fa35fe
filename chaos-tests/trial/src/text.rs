//! Reading one line of words: what a fault, a step and a trigger are written in.

use crate::name::Group;
use crate::target::Target;
use std::str::FromStr;

/// Why a text is not what it should be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what} cannot be read from `{text}`: {why}")]
pub struct ParseError {
    /// What was looked for: `target`, `fault`, `step`, ...
    pub what: &'static str,
    /// What was there, cut to 120 characters.
    pub text: String,
    /// What was expected instead.
    pub why: String,
}

impl ParseError {
    /// An error about `text`.
    pub fn new(what: &'static str, text: &str, why: impl Into<String>) -> ParseError {
        ParseError { what, text: text.chars().take(120).collect(), why: why.into() }
    }
}

/// A cursor over the words of a line.
#[derive(Clone, Debug)]
pub(crate) struct Words<'a> {
    what: &'static str,
    line: &'a str,
    words: std::iter::Peekable<std::str::SplitAsciiWhitespace<'a>>,
}

impl<'a> Words<'a> {
    pub(crate) fn of(what: &'static str, line: &'a str) -> Words<'a> {
        Words { what, line, words: line.split_ascii_whitespace().peekable() }
    }

    pub(crate) fn fail<T>(&self, why: impl Into<String>) -> Result<T, ParseError> {
        Err(ParseError::new(self.what, self.line, why))
    }

    pub(crate) fn word(&mut self, wanted: &str) -> Result<&'a str, ParseError> {
        match self.words.next() {
            Some(word) => Ok(word),
            None => self.fail(format!("{wanted} is missing at the end")),
        }
    }

    /// Takes `literal` if it is next.
    pub(crate) fn take(&mut self, literal: &str) -> bool {
        self.words.next_if(|word| *word == literal).is_some()
    }

    pub(crate) fn literal(&mut self, literal: &str) -> Result<(), ParseError> {
        let word = self.word(&format!("`{literal}`"))?;
        if word == literal { Ok(()) } else { self.fail(format!("`{literal}` was expected where `{word}` stands")) }
    }

    pub(crate) fn parsed<T: FromStr<Err = ParseError>>(&mut self, wanted: &str) -> Result<T, ParseError> {
        self.word(wanted)?.parse()
    }

    pub(crate) fn target(&mut self) -> Result<Target, ParseError> {
        self.parsed("a target, such as node-2,")
    }

    pub(crate) fn group(&mut self) -> Result<Group, ParseError> {
        self.parsed("a shard, such as users/3,")
    }

    /// A number with its unit, such as `50ms`.
    pub(crate) fn number<T: FromStr>(&mut self, unit: &str) -> Result<T, ParseError> {
        let word = self.word(&format!("a number in {unit}"))?;
        match word.strip_suffix(unit).and_then(|digits| digits.parse().ok()) {
            Some(number) => Ok(number),
            None => self.fail(format!("`{word}` is not a number in {unit} within its range, such as 50{unit}")),
        }
    }

    /// A percentage from 0 to 100.
    pub(crate) fn percent(&mut self) -> Result<u8, ParseError> {
        match self.number("%")? {
            percent @ 0..=100 => Ok(percent),
            percent => self.fail(format!("{percent}% is more than 100%")),
        }
    }

    /// A length of time in `ms` or `s`; milliseconds.
    pub(crate) fn duration_ms(&mut self) -> Result<u64, ParseError> {
        let word = self.word("a length of time")?;
        let number = |digits: &str, factor: u64| digits.parse::<u64>().ok()?.checked_mul(factor);
        let ms = match word.strip_suffix("ms") {
            Some(digits) => number(digits, 1),
            None => word.strip_suffix('s').and_then(|digits| number(digits, 1_000)),
        };
        match ms {
            Some(ms) => Ok(ms),
            None => self.fail(format!("`{word}` is not a length of time, such as 250ms or 5s")),
        }
    }

    /// The rest of the line must be empty.
    pub(crate) fn end(mut self) -> Result<(), ParseError> {
        match self.words.next() {
            None => Ok(()),
            Some(word) => self.fail(format!("nothing was expected from `{word}` on")),
        }
    }

    /// What is left, as it stands in the line.
    pub(crate) fn rest(mut self) -> &'a str {
        match self.words.next() {
            // `word` is a slice of `line`, so its place in it is the difference of their addresses.
            Some(word) => &self.line[word.as_ptr() as usize - self.line.as_ptr() as usize..],
            None => "",
        }
    }
}

/// Serialises a type as its text form, and reads it back through `FromStr`.
macro_rules! as_text {
    ($($name:ty),+) => {$(
        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
                to.collect_str(self)
            }
        }
        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
                <String as serde::Deserialize>::deserialize(from)?.parse().map_err(serde::de::Error::custom)
            }
        }
    )+};
}
pub(crate) use as_text;

/// A fieldless enum whose variants have one name each: `ALL`, `name()`, `Display`, `FromStr`, serde as text.
macro_rules! named {
    ($(#[$doc:meta])* $what:literal $name:ident { $($(#[$variant_doc:meta])* $variant:ident = $text:literal),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum $name { $($(#[$variant_doc])* $variant),+ }

        impl $name {
            /// All of them, in order.
            pub const ALL: &'static [$name] = &[$($name::$variant),+];

            /// Its name in text and JSON.
            pub fn name(self) -> &'static str {
                match self { $($name::$variant => $text),+ }
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, to: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                to.write_str(self.name())
            }
        }

        impl std::str::FromStr for $name {
            type Err = $crate::text::ParseError;
            fn from_str(text: &str) -> Result<$name, $crate::text::ParseError> {
                match text {
                    $($text => Ok($name::$variant),)+
                    _ => {
                        let names: Vec<&str> = $name::ALL.iter().map(|one| one.name()).collect();
                        let why = format!("known are {}", names.join(", "));
                        Err($crate::text::ParseError::new($what, text, why))
                    }
                }
            }
        }

        $crate::text::as_text!($name);
    };
}
pub(crate) use named;
