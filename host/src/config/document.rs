//! A TOML document that is read key by key and remembers where everything stands.
//!
//! The one mechanism behind "every key is checked": a [`Section`] knows a table's keys by being asked for them, so
//! what was never asked for is unknown, and what was asked for is what may have been meant. There is no second list
//! of names to keep in step. Errors are collected, not returned: a file is reported whole. Never opens a file and
//! never panics.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use super::places::{Named, Places};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// One thing that is wrong with the configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    pub file: PathBuf,
    /// From 1; `None` concerns the file as a whole.
    pub line: Option<usize>,
    pub message: String,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            Some(line) => write!(f, "{}:{line}: {}", self.file.display(), self.message),
            None => write!(f, "{}: {}", self.file.display(), self.message),
        }
    }
}

/// All that is wrong with the configuration, in the order of the file; printed one error a line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigErrors(pub Vec<ConfigError>);

impl ConfigErrors {
    pub(super) fn whole_file(file: &Path, message: String) -> ConfigErrors {
        ConfigErrors(vec![ConfigError {
            file: file.to_owned(),
            line: None,
            message,
        }])
    }

    pub(super) fn at_line(file: &Path, line: usize, message: String) -> ConfigErrors {
        ConfigErrors(vec![ConfigError {
            file: file.to_owned(),
            line: Some(line),
            message,
        }])
    }
}

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, error) in self.0.iter().enumerate() {
            write!(f, "{}{error}", if index == 0 { "" } else { "\n" })?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigErrors {}

/// Why a value cannot be what its key needs.
#[derive(Debug)]
pub(super) struct Problem {
    /// Where, in bytes, if that is not where the value begins.
    pub at: Option<usize>,
    pub text: String,
}

impl<T: Into<String>> From<T> for Problem {
    fn from(text: T) -> Problem {
        Problem {
            at: None,
            text: text.into(),
        }
    }
}

/// What a key's value is read as.
pub(super) trait Value: Sized {
    fn read(value: &Spanned<DeValue<'_>>, document: &Document<'_>) -> Result<Self, Problem>;
}

/// The text being read, and what was found wrong with it so far.
pub(super) struct Document<'a> {
    text: &'a str,
    path: &'a Path,
    /// Where relative paths start; absolute.
    folder: PathBuf,
    errors: RefCell<Vec<(usize, String)>>,
    unknown: RefCell<Vec<Unknown>>,
    places: RefCell<Places>,
    /// The keys that each kind of table was asked for.
    asked: RefCell<BTreeMap<&'static str, Vec<&'static str>>>,
}

struct Unknown {
    at: usize,
    key: String,
    kind: &'static str,
    label: String,
}

pub(super) const TOP: &str = "the top level";

impl<'a> Document<'a> {
    /// Parses the text and lets `read` ask for all it knows; what remains is unknown.
    pub fn read<T>(
        text: &'a str,
        path: &'a Path,
        read: impl FnOnce(&mut Section<'_, '_>) -> Option<T>,
    ) -> Result<T, ConfigErrors> {
        let absolute = std::path::absolute(path)
            .map_err(|error| ConfigErrors::whole_file(path, format!("not a path: {error}")))?;
        let document = Document {
            text,
            path,
            folder: absolute.parent().unwrap_or(Path::new("/")).to_owned(),
            errors: RefCell::default(),
            unknown: RefCell::default(),
            places: RefCell::default(),
            asked: RefCell::default(),
        };
        let (table, syntax) = DeTable::parse_recoverable(text);
        // What a parser recovered from a broken text only leads to errors that are none.
        if !syntax.is_empty() {
            for error in syntax {
                document.error(error.span().map_or(0, |span| span.start), error.message());
            }
            return Err(document.into_errors());
        }
        let value = read(&mut Section::new(&document, TOP, 0, Some(table.get_ref())));
        let errors = document.into_errors();
        match value {
            Some(value) if errors.0.is_empty() => Ok(value),
            _ => Err(errors),
        }
    }

    /// Records an error at a place in the text, in bytes.
    pub fn error(&self, at: usize, message: impl Into<String>) {
        self.errors.borrow_mut().push((at, message.into()));
    }

    pub fn path(&self, text: &str) -> PathBuf {
        self.folder.join(text)
    }

    pub fn line(&self, at: usize) -> usize {
        1 + self
            .text
            .as_bytes()
            .iter()
            .take(at)
            .filter(|byte| **byte == b'\n')
            .count()
    }

    fn into_errors(self) -> ConfigErrors {
        let asked = self.asked.borrow();
        for unknown in self.unknown.borrow().iter() {
            let Unknown { at, key, kind, label } = unknown;
            let own = asked.get(kind).map_or(&[][..], Vec::as_slice);
            let elsewhere = asked.iter().find(|(_, keys)| keys.contains(&key.as_str()));
            let advice = match (nearest(key, own), elsewhere) {
                (Some(name), _) => format!("; did you mean \"{name}\"?"),
                (None, Some((&TOP, _))) => "; it belongs to the top level, above the first [table]".to_owned(),
                (None, Some((kind, _))) => format!("; it belongs to {kind}"),
                (None, None) => format!("; known are {}", own.join(", ")),
            };
            self.error(*at, format!("unknown key \"{key}\" in {label}{advice}"));
        }
        let mut errors = self.errors.take();
        errors.sort_by_key(|(at, _)| *at);
        let place = |(at, message)| ConfigError {
            file: self.path.to_owned(),
            line: Some(self.line(at)),
            message,
        };
        ConfigErrors(errors.into_iter().map(place).collect())
    }
}

/// One table of the document. When it goes out of scope, each of its keys that was not asked for is an error.
pub(super) struct Section<'d, 't> {
    document: &'d Document<'d>,
    /// `[limits]`, `[[listener]]`
    kind: &'static str,
    /// The same with the entry's name, as errors show it.
    label: String,
    /// Where the table begins.
    at: usize,
    /// `None` for a table that is not there.
    table: Option<&'t DeTable<'t>>,
    asked: Vec<&'static str>,
}

impl<'d, 't> Section<'d, 't> {
    fn new(document: &'d Document<'d>, kind: &'static str, at: usize, table: Option<&'t DeTable<'t>>) -> Self {
        Section {
            document,
            kind,
            label: kind.to_owned(),
            at,
            table,
            asked: Vec::new(),
        }
    }

    /// The value of a key, if it is there and good.
    pub fn get<T: Value>(&mut self, key: &'static str) -> Option<T> {
        let value = self.value(key)?;
        match T::read(value, self.document) {
            Ok(value) => Some(value),
            Err(Problem { at, text }) => {
                let at = at.unwrap_or(value.span().start);
                self.document.error(at, format!("\"{key}\" in {}: {text}", self.label));
                None
            }
        }
    }

    /// The path of a file that a key names. Where it stands is remembered.
    pub fn file(&mut self, key: &'static str) -> Option<PathBuf> {
        let path: PathBuf = self.get(key)?;
        let line = self.line_of(key).unwrap_or_else(|| self.line());
        let key = format!("\"{key}\" in {}", self.label);
        self.document.places.borrow_mut().add_file(&path, Named { line, key });
        Some(path)
    }

    /// The same for a key that must be there.
    pub fn required_file(&mut self, key: &'static str) -> Option<PathBuf> {
        self.need(key);
        self.file(key)
    }

    /// What is remembered, when all was read.
    pub fn places(&self) -> &RefCell<Places> {
        &self.document.places
    }

    /// The value of a key that must be there, unless the table itself is absent.
    pub fn required<T: Value>(&mut self, key: &'static str) -> Option<T> {
        self.need(key);
        self.get(key)
    }

    fn need(&mut self, key: &'static str) {
        if self.table.is_some() && !self.has(key) {
            self.document.error(self.at, format!("{} needs \"{key}\"", self.label));
        }
    }

    /// A name that must be there, and that errors about this section show from now on.
    pub fn name(&mut self, key: &'static str) -> Option<String> {
        let name: String = self.required(key)?;
        self.label = format!("{} \"{name}\"", self.kind);
        let fine = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
        if name.is_empty() || name.len() > NAME_BYTES_MAX || !name.bytes().all(fine) || name.starts_with('.') {
            let rule = format!("a name has 1 to {NAME_BYTES_MAX} letters, digits, \"-\", \"_\" and \".\"");
            self.problem(key, rule);
            return None;
        }
        Some(name)
    }

    /// A table within this one. One that is absent is empty.
    pub fn table(&mut self, key: &'static str, kind: &'static str) -> Section<'d, 't> {
        let (at, table) = match self.value(key) {
            None => (self.at, None),
            Some(value) => match value.get_ref() {
                DeValue::Table(table) => (value.span().start, Some(table)),
                _ => {
                    self.problem(key, format!("expected a table, {kind}"));
                    (value.span().start, None)
                }
            },
        };
        Section::new(self.document, kind, at, table)
    }

    /// An array of tables within this one.
    pub fn tables(&mut self, key: &'static str, kind: &'static str) -> Vec<Section<'d, 't>> {
        let mut sections = Vec::new();
        let Some(value) = self.value(key) else {
            return sections;
        };
        let DeValue::Array(entries) = value.get_ref() else {
            self.problem(key, format!("there can be several, each begins with {kind}"));
            return sections;
        };
        for entry in entries.iter() {
            match entry.get_ref() {
                DeValue::Table(table) => {
                    sections.push(Section::new(self.document, kind, entry.span().start, Some(table)));
                }
                _ => self.problem(key, format!("expected tables, each beginning with {kind}")),
            }
        }
        sections
    }

    /// A table whose keys are the user's own.
    pub fn map<T: Value>(&mut self, key: &'static str, kind: &'static str) -> BTreeMap<String, T> {
        let section = self.table(key, kind);
        let mut map = BTreeMap::new();
        for (name, value) in section.table.into_iter().flatten() {
            match T::read(value, self.document) {
                Ok(value) => {
                    map.insert(name.get_ref().to_string(), value);
                }
                Err(Problem { at, text }) => {
                    let at = at.unwrap_or(value.span().start);
                    self.document.error(
                        at,
                        format!("\"{}\" in {} of {}: {text}", name.get_ref(), kind, self.label),
                    );
                }
            }
        }
        section.without_check();
        map
    }

    /// Whether the key is in the file, good or bad.
    pub fn has(&mut self, key: &'static str) -> bool {
        self.value(key).is_some()
    }

    /// A path of the configuration's own, from the same folder as those in the file.
    pub fn path_of(&self, text: &str) -> PathBuf {
        self.document.path(text)
    }

    /// An error about this section as a whole.
    pub fn fault(&self, message: impl fmt::Display) {
        self.document.error(self.at, format!("{}: {message}", self.label));
    }

    /// An error about the value of a key, at its place.
    pub fn problem(&mut self, key: &'static str, message: impl fmt::Display) {
        let at = self.value(key).map_or(self.at, |value| value.span().start);
        self.document
            .error(at, format!("\"{key}\" in {}: {message}", self.label));
    }

    /// The line on which this table begins.
    pub fn line(&self) -> usize {
        self.document.line(self.at)
    }

    /// The line on which the value of a key begins, if it is there.
    pub fn line_of(&mut self, key: &'static str) -> Option<usize> {
        self.value(key).map(|value| self.document.line(value.span().start))
    }

    fn value(&mut self, key: &'static str) -> Option<&'t Spanned<DeValue<'t>>> {
        if !self.asked.contains(&key) {
            self.asked.push(key);
        }
        self.table?.get(key)
    }

    fn without_check(mut self) {
        self.table = None;
    }
}

/// Longer names are no names.
const NAME_BYTES_MAX: usize = 64;

impl Drop for Section<'_, '_> {
    fn drop(&mut self) {
        for key in self.table.into_iter().flatten().map(|(key, _)| key) {
            if !self.asked.contains(&key.get_ref().as_ref()) {
                self.document.unknown.borrow_mut().push(Unknown {
                    at: key.span().start,
                    key: key.get_ref().to_string(),
                    kind: self.kind,
                    label: self.label.clone(),
                });
            }
        }
        let mut asked = self.document.asked.borrow_mut();
        let names = asked.entry(self.kind).or_default();
        names.extend(
            self.asked
                .iter()
                .filter(|key| !names.contains(key))
                .copied()
                .collect::<Vec<_>>(),
        );
    }
}

/// How alike two names must be for one to be the other's slip (Jaro-Winkler, of 1.0): "cert" and "certificate" are.
const LIKENESS_MIN: f64 = 0.8;

/// The name that was probably meant.
pub(super) fn nearest<'n>(given: &str, names: &[&'n str]) -> Option<&'n str> {
    let given = given.to_lowercase();
    let scored = names.iter().map(|name| (strsim::jaro_winkler(&given, name), *name));
    let best = scored.max_by(|a, b| a.0.total_cmp(&b.0))?;
    (best.0 >= LIKENESS_MIN).then_some(best.1)
}
