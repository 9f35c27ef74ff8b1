//! A walk over parsed TOML that goes on after a mistake.
//!
//! serde stops at the first error; the owner of a file wants all of them. So the tree is walked by hand: a [`Section`]
//! hands out the values of its keys one by one, what is wrong with them goes into the [`Report`] with its place in the
//! text, and the walk goes on with a stand-in. The tree may itself be incomplete: after a syntax error the parser goes on
//! as well as it can, and the report then keeps back what is only a consequence of it.

use std::ops::{Range, RangeInclusive};

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::error::{Errors, Fault, Mistake};
use super::nearest::nearest;
use super::schema::{SECTIONS, Shape};

/// A value and where it stands.
pub(super) type Value<'a> = &'a Spanned<DeValue<'a>>;

/// A setting as it was found: its value, or the default where it has none or a wrong one.
pub(super) struct Setting<T> {
    pub(super) value: T,
    /// Where the value stands; where its section begins if it isn't set.
    pub(super) at: Range<usize>,
    pub(super) found: Found,
}

/// What was found in a setting's place.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Found {
    /// Nothing: the value is the default.
    Nothing,
    /// Something wrong, reported already: the value is a stand-in.
    Wrong,
    /// The value.
    Right,
}

impl<T> Setting<T> {
    /// Whether rules that compare this setting with others make sense.
    pub(super) fn sound(&self) -> bool {
        self.found != Found::Wrong
    }
}

/// Collects mistakes and knows where in the text they are.
pub(super) struct Report<'a> {
    text: &'a str,
    /// Where the parser stumbled: line and byte offset.
    broken: Vec<(usize, usize)>,
    mistakes: Vec<Mistake>,
}

impl<'a> Report<'a> {
    /// Begins with the `errors` of the parser, one for each line: the rest of a broken line says nothing new.
    pub(super) fn new(text: &'a str, errors: &[toml::de::Error]) -> Self {
        let mut report = Self { text, broken: Vec::new(), mistakes: Vec::new() };
        let mut errors: Vec<_> = errors.iter().map(|error| (error.span().unwrap_or_default(), error.message())).collect();
        errors.sort_by_key(|(span, _)| span.start);
        for (span, message) in errors {
            let (line, column) = report.place(span.start);
            let told = report.broken.iter().any(|(known, _)| *known == line);
            report.broken.push((line, span.start));
            if !told {
                // Only the message: the `Display` of this error prints the line, which may hold a secret.
                let (key, hint) = (String::from("syntax error"), syntax_hint(message));
                // A literal string is one in single quotes: the parser's fallback, and no advice for anybody.
                let message = String::from(message.trim_end_matches(", expected literal string"));
                report.mistakes.push(Mistake { line, column, key, message, hint });
            }
        }
        report
    }

    /// Adds what is wrong with the setting `key` at `at`, unless its line doesn't even parse.
    pub(super) fn add(&mut self, at: &Range<usize>, key: impl Into<String>, fault: Fault) {
        let (line, column) = self.place(at.start);
        if self.broken.iter().all(|(broken, _)| *broken != line) {
            self.mistakes.push(Mistake { line, column, key: key.into(), message: fault.message, hint: fault.hint });
        }
    }

    /// Adds what follows from a setting that is missing or left at its default. After a syntax error nothing does: the
    /// setting may only have been lost.
    pub(super) fn add_if_whole(&mut self, at: &Range<usize>, key: impl Into<String>, fault: Fault) {
        if self.broken.is_empty() {
            self.add(at, key, fault);
        }
    }

    /// The errors, if there are any.
    pub(super) fn into_errors(self) -> Option<Errors> {
        Errors::of(self.mistakes)
    }

    /// Whether the parser stumbled inside a value, which is then not the owner's.
    fn is_broken(&self, at: &Range<usize>) -> bool {
        self.broken.iter().any(|(_, offset)| (at.start..=at.end).contains(offset))
    }

    /// Line and column of a byte offset, both from 1, the column in characters.
    fn place(&self, offset: usize) -> (usize, usize) {
        let before = self.text.as_bytes().get(..offset).unwrap_or(self.text.as_bytes());
        let line_start = before.iter().rposition(|byte| *byte == b'\n').map_or(0, |newline| newline + 1);
        let line = before.split(|byte| *byte == b'\n').count();
        // An editor doesn't count the byte order mark, nor do people.
        let column = String::from_utf8_lossy(&before[line_start..]).trim_start_matches('\u{feff}').chars().count() + 1;
        (line, column)
    }
}

fn syntax_hint(message: &str) -> Option<String> {
    let hint = match message {
        _ if message.starts_with("string values must be quoted") => "put text in quotes, as in key = \"value\"",
        _ if message.starts_with("duplicate key") => "keep one of them; each section and each setting stands only once",
        _ if message.starts_with("key with no value") => "write a setting as key = value, and a comment with # before it",
        _ if message.starts_with("unclosed array") => "close the list with ]",
        _ if message.starts_with("unclosed table") => "close the section's name with ], as in [disk]",
        _ if message.starts_with("invalid boolean") => "write true or false, or put text in quotes",
        _ => return None,
    };
    Some(String::from(hint))
}

/// One section of the file, or an empty one in place of a section that isn't there.
pub(super) struct Section<'a> {
    shape: &'static Shape,
    /// The section's name in errors: `disk`, `source[2]`.
    path: String,
    at: Range<usize>,
    table: Option<&'a DeTable<'a>>,
}

impl<'a> Section<'a> {
    /// The section that stands only once; reports its unknown keys.
    pub(super) fn once(report: &mut Report<'_>, root: &'a DeTable<'a>, shape: &'static Shape) -> Self {
        let value = root.get(shape.name);
        let table = value.and_then(|value| {
            let table = value.get_ref().as_table();
            if table.is_none() && !report.is_broken(&value.span()) {
                let hint = format!("write {} on a line of its own, and its settings below", shape.head());
                report.add(&value.span(), shape.name, wrong_type("one section", value.get_ref(), hint));
            }
            table
        });
        let section = Self { shape, path: String::from(shape.name), at: value.map_or(0..0, |value| value.span().clone()), table };
        section.report_unknown(report);
        section
    }

    /// One of the sections that repeat, the `number`th from 1.
    pub(super) fn nth(report: &mut Report<'_>, value: Value<'a>, shape: &'static Shape, number: usize) -> Option<Self> {
        let path = format!("{}[{number}]", shape.name);
        let Some(table) = value.get_ref().as_table() else {
            if !report.is_broken(&value.span()) {
                let hint = format!("write {} on a line of its own, and its settings below", shape.head());
                report.add(&value.span(), path, wrong_type("a section", value.get_ref(), hint));
            }
            return None;
        };
        let section = Self { shape, path, at: value.span(), table: Some(table) };
        section.report_unknown(report);
        Some(section)
    }

    /// The sections that stand inside this one, `[[section.key]]`.
    pub(super) fn inner(&self, report: &mut Report<'_>, key: &str, shape: &'static Shape) -> Vec<Self> {
        let value = self.table.and_then(|table| table.get(key));
        let Some(value) = value.filter(|value| !report.is_broken(&value.span())) else { return Vec::new() };
        let DeValue::Array(elements) = value.get_ref() else {
            let hint = format!("write {} on a line of its own, and its settings below", shape.head());
            report.add(&value.span(), self.path(key), wrong_type("sections", value.get_ref(), hint));
            return Vec::new();
        };
        let path = self.path(key);
        let sections = elements.iter().enumerate().filter_map(|(index, element)| {
            let mut section = Self::nth(report, element, shape, index + 1)?;
            section.path = format!("{path}[{}]", index + 1);
            Some(section)
        });
        sections.collect()
    }

    /// Where it stands in the file.
    pub(super) fn place(&self) -> Range<usize> {
        self.at.clone()
    }

    /// Whether the section stands in the file, right or wrong.
    pub(super) fn exists(&self) -> bool {
        self.at != (0..0)
    }

    /// Whether the setting stands there, right or wrong.
    pub(super) fn sets(&self, key: &str) -> bool {
        self.table.is_some_and(|table| table.contains_key(key))
    }

    /// The full name of a key of this section.
    pub(super) fn path(&self, key: &str) -> String {
        format!("{}.{key}", self.path)
    }

    /// Text that `check` turns into a value; `default` where there is none.
    pub(super) fn text<T>(
        &self,
        report: &mut Report<'_>,
        key: &str,
        default: T,
        check: impl FnOnce(&str) -> Result<T, Fault>,
    ) -> Setting<T> {
        self.setting(report, key, default, |value| check(self.string(value, key)?))
    }

    /// Text that must be there; none if it is missing or wrong.
    pub(super) fn required<T>(
        &self,
        report: &mut Report<'_>,
        key: &str,
        check: impl FnOnce(&str) -> Result<T, Fault>,
    ) -> Option<T> {
        let setting = self.text(report, key, None, |text| check(text).map(Some));
        if setting.found == Found::Nothing {
            self.report_missing(report, key);
        }
        setting.value
    }

    /// True or false.
    pub(super) fn flag(&self, report: &mut Report<'_>, key: &str, default: bool) -> Setting<bool> {
        self.setting(report, key, default, |value| {
            value.as_bool().ok_or_else(|| wrong_type("true or false, without quotes", value, self.write(key)))
        })
    }

    /// A whole number in `range`.
    pub(super) fn number(&self, report: &mut Report<'_>, key: &str, default: u16, range: RangeInclusive<u16>) -> Setting<u16> {
        self.setting(report, key, default, |value| {
            let DeValue::Integer(integer) = value else {
                return Err(wrong_type("a number without quotes", value, self.write(key)));
            };
            let number = u16::from_str_radix(integer.as_str(), integer.radix()).ok();
            let number = number.filter(|number| range.contains(number));
            let (least, largest) = range.into_inner();
            number.ok_or_else(|| Fault::new(format!("must be from {least} to {largest}"), self.write(key)))
        })
    }

    /// Any value that `check` understands; `default` where there is none.
    pub(super) fn any<T>(
        &self,
        report: &mut Report<'_>,
        key: &str,
        default: T,
        check: impl FnOnce(&DeValue<'_>) -> Result<T, Fault>,
    ) -> Setting<T> {
        self.setting(report, key, default, check)
    }

    /// A list of texts, each with its place; `check` turns each into a value. Elements that are wrong are reported and
    /// left out.
    pub(super) fn list<T>(
        &self,
        report: &mut Report<'_>,
        key: &str,
        check: impl Fn(&str) -> Result<T, Fault>,
    ) -> Setting<Vec<Element<T>>> {
        let mut list = self.setting(report, key, &[][..], |value| match value {
            DeValue::Array(array) => Ok(&array[..]),
            _ => Err(wrong_type("a list", value, self.write(key))),
        });
        let mut value = Vec::new();
        for (index, element) in list.value.iter().enumerate() {
            let path = format!("{}[{}]", self.path(key), index + 1);
            let checked = match element.get_ref() {
                DeValue::String(text) => check(text),
                other => Err(wrong_type("text in quotes", other, self.write(key))),
            };
            match checked {
                Ok(checked) => value.push(Element { value: checked, path, at: element.span() }),
                Err(fault) => {
                    report.add(&element.span(), path, fault);
                    list.found = Found::Wrong;
                }
            }
        }
        Setting { value, at: list.at, found: list.found }
    }

    /// A list with at least one element.
    pub(super) fn required_list<T>(
        &self,
        report: &mut Report<'_>,
        key: &str,
        check: impl Fn(&str) -> Result<T, Fault>,
    ) -> Setting<Vec<Element<T>>> {
        let mut list = self.list(report, key, check);
        match list.found {
            Found::Nothing => self.report_missing(report, key),
            Found::Right if list.value.is_empty() => {
                report.add(&list.at, self.path(key), Fault::new("must not be empty", self.write(key)));
                list.found = Found::Wrong;
            }
            Found::Right | Found::Wrong => {}
        }
        list
    }

    fn setting<T>(
        &self,
        report: &mut Report<'_>,
        key: &str,
        default: T,
        convert: impl FnOnce(&'a DeValue<'a>) -> Result<T, Fault>,
    ) -> Setting<T> {
        let Some(value) = self.table.and_then(|table| table.get(key)) else {
            let found = if self.table.is_none() && self.exists() { Found::Wrong } else { Found::Nothing };
            return Setting { value: default, at: self.at.clone(), found };
        };
        let at = value.span();
        if report.is_broken(&at) {
            return Setting { value: default, at, found: Found::Wrong };
        }
        match convert(value.get_ref()) {
            Ok(value) => Setting { value, at, found: Found::Right },
            Err(fault) => {
                report.add(&at, self.path(key), fault);
                Setting { value: default, at, found: Found::Wrong }
            }
        }
    }

    fn string(&self, value: &'a DeValue<'a>, key: &str) -> Result<&'a str, Fault> {
        value.as_str().ok_or_else(|| wrong_type("text in quotes", value, self.write(key)))
    }

    fn write(&self, key: &str) -> String {
        format!("write {key} = {}", self.shape.example(key))
    }

    fn report_missing(&self, report: &mut Report<'_>, key: &str) {
        let hint = format!("add {key} = {}", self.shape.example(key));
        report.add_if_whole(&self.at, self.path(key), Fault::new("is missing", hint));
    }

    fn report_unknown(&self, report: &mut Report<'_>) {
        for (key, _) in self.table.into_iter().flatten() {
            let name = key.get_ref().as_ref();
            if self.shape.keys.iter().any(|known| known.name == name) || self.shape.inner.contains(&name) {
                continue;
            }
            let keys = self.shape.keys.iter().map(|known| (known.name, String::from(known.name)));
            let inner = self.shape.inner.iter().map(|inner| (*inner, format!("[[{}.{inner}]]", self.shape.name)));
            let known: Vec<(&str, String)> = keys.chain(inner).collect();
            let near = nearest(name, known.iter().map(|(name, _)| *name));
            let hint = if let Some((_, shown)) = known.iter().find(|(known, _)| near == Some(*known)) {
                format!("did you mean {shown}?")
            } else if let Some(home) = home_of(name) {
                home
            } else {
                let shown: Vec<&str> = known.iter().map(|(_, shown)| shown.as_str()).collect();
                format!("{} has {}", self.shape.head(), shown.join(", "))
            };
            let path = self.path(&printable(name));
            report.add(&key.span(), path, Fault::new("unknown setting", hint));
        }
    }
}

/// An element of a list.
pub(super) struct Element<T> {
    pub(super) value: T,
    /// Its name in errors: `source[2].paths[1]`.
    pub(super) path: String,
    pub(super) at: Range<usize>,
}

/// Reports what stands at the top of the file and is no known section.
pub(super) fn report_unknown_sections(report: &mut Report<'_>, root: &DeTable<'_>) {
    for (key, value) in root {
        let name = key.get_ref().as_ref();
        if SECTIONS.iter().any(|section| section.name == name) {
            continue;
        }
        let is_section = match value.get_ref() {
            DeValue::Table(_) => true,
            DeValue::Array(array) => array.first().is_some_and(|first| first.get_ref().is_table()),
            _ => false,
        };
        let near = nearest(name, SECTIONS.iter().map(|section| section.name));
        let near = SECTIONS.iter().find(|section| near == Some(section.name));
        let hint = match (is_section, near, home_of(name)) {
            (true, Some(near), _) => format!("did you mean {}?", near.head()),
            (false, _, Some(home)) => home,
            (_, near, _) => {
                let heads: Vec<_> = SECTIONS.iter().map(|section| section.head()).collect();
                near.map_or_else(|| format!("there are {}", heads.join(", ")), |near| format!("did you mean {}?", near.head()))
            }
        };
        let message = if is_section { "unknown section" } else { "unknown setting outside of any section" };
        report.add(&key.span(), printable(name), Fault::new(message, hint));
    }
}

/// Where a setting of this name does belong.
fn home_of(name: &str) -> Option<String> {
    let homes = SECTIONS.iter().filter(|section| section.keys.iter().any(|known| known.name == name));
    let heads: Vec<_> = homes.map(|section| section.head()).collect();
    if heads.is_empty() { None } else { Some(format!("it belongs into {}", heads.join(" or "))) }
}

/// A key that isn't known, for an error. What doesn't look like the name of a setting may be anything, even a secret.
fn printable(name: &str) -> String {
    const LONGEST: usize = 32;
    let looks_like_one = name.chars().all(|letter| letter.is_ascii_alphanumeric() || matches!(letter, '-' | '_'));
    if looks_like_one && (1..=LONGEST).contains(&name.len()) { String::from(name) } else { String::from("(unprintable)") }
}

fn wrong_type(expected: &str, found: &DeValue<'_>, hint: String) -> Fault {
    let found = match found {
        DeValue::String(_) => "text",
        DeValue::Integer(_) => "a number",
        DeValue::Float(_) => "a fraction",
        DeValue::Boolean(_) => "true or false",
        DeValue::Datetime(_) => "a date or time",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a section",
    };
    Fault::new(format!("must be {expected}, not {found}"), hint)
}
