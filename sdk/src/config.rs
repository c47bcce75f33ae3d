//! Reads `[plugin.config]`, which the host hands over as JSON, into the policy's own type.
//!
//! The error is one line for the administrator: the path of the key, and what is wrong with it. The line and column of the JSON are left out:
//! nobody wrote that text by hand. A name that is not known comes with the nearest one that is.

use serde::de::DeserializeOwned;

/// Names that are listed beside one that is meant.
const MOST_NAMES: usize = 12;

/// # Errors
/// The key's path and what is wrong there: `limits[0].rate: invalid type: string "x", expected a whole number from 0 to 4294967295`, or
/// ``limits[0].brust: unknown field `brust`, expected one of `rate`, `burst`; did you mean `burst`?``.
pub fn parse<T: DeserializeOwned>(json: &str) -> Result<T, String> {
    let mut deserializer = serde_json::Deserializer::from_str(json);
    let value = serde_path_to_error::deserialize(&mut deserializer).map_err(|error| {
        let path = error.path().to_string();
        let what = with_nearest(in_words(without_position(&error.into_inner().to_string())));
        // The path of the whole document is a dot, and says nothing.
        if path == "." { what } else { format!("{path}: {what}") }
    })?;
    deserializer.end().map_err(|error| error.to_string())?;
    Ok(value)
}

/// Whether the plugin has an endpoint of this name: for [`Policy::new`](crate::Policy::new) of a policy that can do nothing without it. `example` is
/// where it usually is: `unix:/run/clamav/clamd.ctl`. Needs the grant `endpoint`.
///
/// # Errors
/// There is none: what to write, and the name that was probably meant.
pub fn require_endpoint(name: &str, example: &str) -> Result<(), String> {
    let names = crate::endpoint::names();
    if names.iter().any(|known| known == name) {
        return Ok(());
    }
    let near = match nearest(name, names.iter().map(String::as_str)) {
        Some(near) => format!(" (there is `{near}`)"),
        None => String::new(),
    };
    Err(format!(
        "there is no endpoint `{name}`{near}: add endpoints = {{ {name} = \"{example}\" }} to this [[plugin]]"
    ))
}

fn without_position(text: &str) -> String {
    match text.rfind(" at line ") {
        Some(end) => text[..end].to_owned(),
        None => text.to_owned(),
    }
}

/// Names of Rust's types mean nothing to who writes a configuration.
fn in_words(text: String) -> String {
    let Some((what, expected)) = text.rsplit_once("expected ") else {
        return text;
    };
    let expected = match expected {
        "u8" => whole(u8::MIN, u8::MAX),
        "u16" => whole(u16::MIN, u16::MAX),
        "u32" => whole(u32::MIN, u32::MAX),
        "u64" => whole(u64::MIN, u64::MAX),
        "i32" => whole(i32::MIN, i32::MAX),
        "i64" => whole(i64::MIN, i64::MAX),
        "f32" | "f64" => "a number".to_owned(),
        _ => return text,
    };
    format!("{what}expected {expected}")
}

fn whole(least: impl std::fmt::Display, most: impl std::fmt::Display) -> String {
    format!("a whole number from {least} to {most}")
}

/// Appends the nearest of the names that serde expected, if one is near enough to be meant; it stands for all of them where they are many.
fn with_nearest(text: String) -> String {
    let is_name = text.starts_with("unknown field ") || text.starts_with("unknown variant ");
    // What stands in backticks: first what was found, then what was expected.
    let mut quoted = text.split('`').skip(1).step_by(2);
    let (true, Some(found)) = (is_name, quoted.next()) else {
        return text;
    };
    let Some(name) = nearest(found, quoted) else {
        return text;
    };
    let what = match text.split_once(", expected ") {
        Some((what, _)) if text.matches('`').count() / 2 > MOST_NAMES => what,
        _ => &text,
    };
    format!("{what}; did you mean `{name}`?")
}

fn nearest<'n>(given: &str, names: impl Iterator<Item = &'n str>) -> Option<&'n str> {
    let near = names
        .map(|name| (strsim::levenshtein(given, name), name))
        .filter(|(distance, name)| *distance <= given.len().max(name.len()).div_ceil(3))
        .min();
    near.map(|(_, name)| name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, serde::Deserialize)]
    #[serde(deny_unknown_fields)]
    #[allow(dead_code, reason = "only parsed")]
    struct Config {
        limits: Vec<Limit>,
    }

    #[derive(Debug, serde::Deserialize)]
    #[serde(deny_unknown_fields)]
    #[allow(dead_code, reason = "only parsed")]
    struct Limit {
        rate: u32,
        #[serde(default)]
        per: Option<Per>,
    }

    #[derive(Debug, serde::Deserialize)]
    #[serde(rename_all = "kebab-case")]
    enum Per {
        Address,
        SenderDomain,
    }

    #[test]
    fn errors_name_the_key() {
        let cases = [
            (
                r#"{"limits":[{"rate":1},{"rate":"x"}]}"#,
                "limits[1].rate: invalid type: string \"x\", expected a whole number from 0 to 4294967295",
            ),
            (
                r#"{"limits":[{"rat":1}]}"#,
                "limits[0].rat: unknown field `rat`, expected `rate` or `per`; did you mean `rate`?",
            ),
            (
                r#"{"limits":[{"rate":1,"per":"sender_domain"}]}"#,
                "limits[0].per: unknown variant `sender_domain`, expected `address` or `sender-domain`; did you mean `sender-domain`?",
            ),
            (r#"{"color":1}"#, "color: unknown field `color`, expected `limits`"),
            (r#"{"limits":[{}]}"#, "limits[0]: missing field `rate`"),
            ("{}", "missing field `limits`"),
        ];
        for (json, expected) in cases {
            assert_eq!(parse::<Config>(json).expect_err(json), expected, "{json}");
        }
    }

    #[test]
    fn text_behind_the_value_is_refused() {
        assert!(parse::<Config>(r#"{"limits":[]} x"#).is_err());
    }
}
