//! Reads the mail to train on.

use std::fs;
use std::path::Path;

use spam_scan::evidence::{Evidence, Form, Words};
use spam_scan::header;
use spam_scan::model::{self, Model};
use spam_scan::rules::RULES;

/// Bytes of a body that are read: the default of `body_bytes`.
const BODY_BYTES: usize = 64 * 1024;

/// Whose mail it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Ham,
    /// Newsletters and the like: wanted, and like spam.
    HardHam,
    Spam,
}

impl Kind {
    pub const ALL: [Self; 3] = [Self::Ham, Self::HardHam, Self::Spam];

    pub fn name(self) -> &'static str {
        match self {
            Self::Ham => "ham",
            Self::HardHam => "hard-ham",
            Self::Spam => "spam",
        }
    }
}

/// A message, as far as training looks at it.
#[derive(Debug)]
pub struct Sample {
    pub kind: Kind,
    pub file: String,
    /// The mailing list that it came by, or else who sent it: what is alike for reasons that other mail does not share.
    pub group: String,
    /// Who wrote it.
    pub sender: String,
    pub times: [u8; RULES.len()],
    /// Numbers of words and pairs, ascending, each once.
    pub words: Vec<u32>,
    /// Numbers of forms, by what they are of, in the same way.
    pub forms: [Vec<u32>; Form::ALL.len()],
}

impl Sample {
    /// What a model makes of it, in hundredths of a point.
    pub fn points(&self, model: &Model<'_>) -> i32 {
        let mut tally = model.tally();
        for word in &self.words {
            tally.take(*word);
        }
        for form in Form::ALL {
            for number in &self.forms[form as usize] {
                tally.take_form(form, *number);
            }
        }
        model.base() + model::rule_points(model, &self.times) + tally.words() + tally.forms()
    }
}

#[derive(Debug)]
pub struct Corpus {
    pub samples: Vec<Sample>,
}

impl Corpus {
    /// Reads the folders of all kinds.
    pub fn read(folder: &Path) -> Result<Self, String> {
        let mut samples = Vec::new();
        for kind in Kind::ALL {
            let folder = folder.join(kind.name());
            let failed = |error: std::io::Error| format!("{}: {error}", folder.display());
            let mut paths = Vec::new();
            for entry in fs::read_dir(&folder).map_err(failed)? {
                paths.push(entry.map_err(failed)?.path());
            }
            // The order of a folder is no one's choice.
            paths.sort();
            for path in paths {
                let bytes = fs::read(&path).map_err(|error| format!("{}: {error}", path.display()))?;
                let file = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
                samples.push(sample(kind, file, &as_sent(&bytes)));
            }
        }
        Ok(Self { samples })
    }
}

#[derive(Default)]
struct All {
    words: Vec<u32>,
    forms: [Vec<u32>; Form::ALL.len()],
}

impl Words for All {
    fn take(&mut self, hash: u32) {
        self.words.push(hash);
    }

    fn take_form(&mut self, form: Form, hash: u32) {
        self.forms[form as usize].push(hash);
    }
}

fn sample(kind: Kind, file: String, message: &[u8]) -> Sample {
    let (fields, offset) = header::read(message);
    let body = &message[offset..];
    let mut all = All::default();
    let evidence = Evidence::of(&fields, &body[..body.len().min(BODY_BYTES)], None, &mut all);
    let words = distinct(all.words);
    let forms = all.forms.map(distinct);
    let from = String::from_utf8_lossy(fields.from.unwrap_or_default());
    let sender = match address(&from) {
        // One robot posts many feeds, which are no more alike than newsletters: their names tell them apart.
        robot if robot.starts_with("rssfeeds@") => from.to_lowercase(),
        sender => sender,
    };
    let header = String::from_utf8_lossy(&message[..offset]);
    let group = list(&header).unwrap_or_else(|| match kind {
        // A newsletter's sender may have an address for each issue.
        Kind::HardHam => sender.rsplit('@').next().unwrap_or_default().to_owned(),
        Kind::Ham | Kind::Spam => sender.clone(),
    });
    Sample {
        kind,
        file,
        group,
        sender,
        times: evidence.times,
        words,
        forms,
    }
}

fn distinct(mut numbers: Vec<u32>) -> Vec<u32> {
    numbers.sort_unstable();
    numbers.dedup();
    numbers
}

/// Lines end in CRLF on the way.
fn as_sent(bytes: &[u8]) -> Vec<u8> {
    let mut sent = Vec::with_capacity(bytes.len() + bytes.len() / 30);
    for line in bytes.split_inclusive(|byte| *byte == b'\n') {
        match line.strip_suffix(b"\n") {
            Some(line) => {
                sent.extend_from_slice(line.strip_suffix(b"\r").unwrap_or(line));
                sent.extend_from_slice(b"\r\n");
            }
            None => sent.extend_from_slice(line),
        }
    }
    sent
}

/// What stands between angle brackets, or else the word that has an `@`.
fn address(field: &str) -> String {
    let inside = field
        .rsplit_once('<')
        .map_or(field, |(_, rest)| rest.split('>').next().unwrap_or(rest));
    let word = inside
        .split_whitespace()
        .find(|word| word.contains('@'))
        .unwrap_or(inside.trim());
    word.to_lowercase()
}

/// The mailing list that a header names.
fn list(header: &str) -> Option<String> {
    let unfolded = header.replace("\r\n\t", " ").replace("\r\n ", " ");
    let field = |name: &str| {
        unfolded.lines().find_map(|line| {
            let (other, value) = line.split_once(':')?;
            other.eq_ignore_ascii_case(name).then(|| value.trim().to_owned())
        })
    };
    let named = field("List-Id")
        .or_else(|| field("X-BeenThere"))
        .or_else(|| field("Mailing-List"));
    if let Some(named) = named.filter(|named| !named.is_empty()) {
        let inside = named
            .rsplit_once('<')
            .map(|(_, rest)| rest.trim_end_matches('>').to_owned());
        return Some(
            inside
                .unwrap_or_else(|| named.split(';').next().unwrap_or_default().to_owned())
                .to_lowercase(),
        );
    }
    let sender = address(&field("Sender")?);
    let parts = ["owner-", "-owner@", "-admin@", "-bounces@", "bounce-"];
    parts.iter().any(|part| sender.contains(part)).then_some(sender)
}
