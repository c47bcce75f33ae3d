//! Reads `[plugin.config]`, which the host hands over as JSON, into the policy's own type.
//!
//! The error is one line for the administrator: the path of the key, and what is wrong with it. The line and column of the JSON are left out:
//! nobody wrote that text by hand.

use serde::de::DeserializeOwned;

/// # Errors
/// The key's path and what is wrong there: `limits[0].rate: invalid type: string "x", expected u32`.
pub fn parse<T: DeserializeOwned>(json: &str) -> Result<T, String> {
    let mut deserializer = serde_json::Deserializer::from_str(json);
    let value = serde_path_to_error::deserialize(&mut deserializer).map_err(|error| {
        let path = error.path().to_string();
        let what = without_position(&error.into_inner().to_string());
        // The path of the whole document is a dot, and says nothing.
        if path == "." { what } else { format!("{path}: {what}") }
    })?;
    deserializer.end().map_err(|error| error.to_string())?;
    Ok(value)
}

fn without_position(text: &str) -> String {
    match text.rfind(" at line ") {
        Some(end) => text[..end].to_owned(),
        None => text.to_owned(),
    }
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
    }

    #[test]
    fn errors_name_the_key() {
        let cases = [
            (
                r#"{"limits":[{"rate":1},{"rate":"x"}]}"#,
                "limits[1].rate: invalid type: string \"x\", expected u32",
            ),
            (
                r#"{"limits":[{"rat":1}]}"#,
                "limits[0].rat: unknown field `rat`, expected `rate`",
            ),
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
