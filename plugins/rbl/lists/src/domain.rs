//! The registered domain of a host: the name that lists of domains keep.
//!
//! By a small rule, not by the public suffix list: that has 9,000 entries, is a hundred times the code of a policy, and is out of date the day after. A
//! registry below a two-letter domain that has its own second level (`co.uk`, `com.au`) calls it by one of a few names; what has another one
//! (`k12.tx.us`) can be configured. A wrong cut asks for a name that no list has, so it can only miss something.

/// Bytes of a name (RFC 1035 §2.3.4).
const MOST_NAME_BYTES: usize = 253;

/// What registries call their second level.
const SECOND_LEVELS: [&str; 38] = [
    "ac", "asn", "biz", "co", "com", "coop", "ed", "edu", "firm", "gen", "go", "gob", "gouv", "gov", "govt", "gv",
    "id", "in", "ind", "info", "int", "lg", "ltd", "me", "mil", "ne", "net", "nhs", "nom", "or", "org", "plc",
    "police", "pro", "sch", "tm", "uk", "web",
];

/// The key `suffixes` of a configuration, put as names are compared.
///
/// # Errors
/// The key with the place, what is wrong, and what would be right.
pub fn check_suffixes(suffixes: &[String]) -> Result<Vec<String>, String> {
    let check = |(place, suffix): (usize, &String)| {
        host_name(suffix).ok_or_else(|| format!("suffixes[{place}]: `{suffix}` is no domain: write it as `github.io`"))
    };
    suffixes.iter().enumerate().map(check).collect()
}

/// A host's name in lower case and without the last dot. None for what no list of domains has: an address, a name of one label, or no name.
#[must_use]
pub fn host_name(host: &str) -> Option<String> {
    let host = host.strip_suffix('.').unwrap_or(host).to_lowercase();
    (is_name(&host) && host.contains('.')).then_some(host)
}

/// The domain that was registered, of a host's name: `spam.example` of `mail.spam.example.`. `suffixes` are further names below which others register.
/// None where there is no [`host_name`].
#[must_use]
pub fn registered_domain(host: &str, suffixes: &[String]) -> Option<String> {
    let host = host_name(host)?;
    let labels = |text: &str| text.split('.').count();
    let below = suffixes
        .iter()
        .filter(|suffix| {
            host.strip_suffix(suffix.as_str())
                .is_some_and(|rest| rest.ends_with('.'))
        })
        .map(|suffix| labels(suffix) + 1)
        .max();
    let wanted = below.unwrap_or_else(|| {
        let mut from_the_end = host.rsplit('.');
        let (top, second) = (from_the_end.next(), from_the_end.next());
        let is_shared =
            top.is_some_and(|top| top.len() == 2) && second.is_some_and(|second| SECOND_LEVELS.contains(&second));
        if is_shared { 3 } else { 2 }
    });
    let start = host.rmatch_indices('.').nth(wanted - 1).map_or(0, |(dot, _)| dot + 1);
    Some(host[start..].to_owned())
}

/// Letters of any script, digits, `-` and `_` in labels; the last one is no number.
fn is_name(text: &str) -> bool {
    let is_label = |label: &str| {
        !label.is_empty() && label.len() <= 63 && label.chars().all(|c| c.is_alphanumeric() || matches!(c, '-' | '_'))
    };
    let last = text.rsplit('.').next().unwrap_or_default();
    text.len() <= MOST_NAME_BYTES && text.split('.').all(is_label) && !last.bytes().all(|byte| byte.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_domain_is_cut_where_it_was_registered() {
        let suffixes = ["github.io".to_owned(), "k12.tx.us".to_owned()];
        let cases = [
            ("spam.example", Some("spam.example")),
            ("a.b.Spam.EXAMPLE.", Some("spam.example")),
            ("www.spam.co.uk", Some("spam.co.uk")),
            ("spam.co.uk", Some("spam.co.uk")),
            ("co.uk", Some("co.uk")),
            ("www.spam.com.au", Some("spam.com.au")),
            ("www.spam.de", Some("spam.de")),
            ("com.example.de", Some("example.de")),
            ("mail.co.example", Some("co.example")),
            ("me.github.io", Some("me.github.io")),
            ("x.me.github.io", Some("me.github.io")),
            ("github.io", Some("github.io")),
            ("notgithub.io", Some("notgithub.io")),
            ("www.school.k12.tx.us", Some("school.k12.tx.us")),
            ("m\u{fc}ll.B\u{dc}cher.example", Some("b\u{fc}cher.example")),
            ("xn--bcher-kva.example", Some("xn--bcher-kva.example")),
            ("localhost", None),
            ("192.0.2.1", None),
            ("[192.0.2.1]", None),
            ("2001:db8::1", None),
            ("a..example", None),
            (".example", None),
            ("", None),
            (".", None),
            ("a b.example", None),
            ("a\u{0}b.example", None),
        ];
        for (host, expected) in cases {
            assert_eq!(registered_domain(host, &suffixes).as_deref(), expected, "{host:?}");
        }
        let long = "a.".repeat(126) + "example";
        assert_eq!(registered_domain(&long, &suffixes), None);
        assert_eq!(registered_domain(&("a".repeat(64) + ".example"), &suffixes), None);
    }
}
