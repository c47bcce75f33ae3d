//! The domain of a message's author: what stands in From, taken apart (RFC 5322 §3.6.2).
//!
//! Takes any bytes, and says nothing where it is not sure.

/// The one domain, in lower case, of all addresses in the From fields; none if there is no field or several, or if their domains differ.
pub fn domain(fields: &[Vec<u8>]) -> Option<String> {
    let [field] = fields else { return None };
    let mut found: Option<String> = None;
    for address in addresses(std::str::from_utf8(field).ok()?)? {
        let (_, domain) = address.rsplit_once('@')?;
        let domain = domain.trim().trim_end_matches('.').to_ascii_lowercase();
        let in_domain =
            |char: char| char.is_ascii_alphanumeric() || matches!(char, '-' | '_' | '.') || !char.is_ascii();
        if domain.is_empty() || !domain.chars().all(in_domain) || found.as_ref().is_some_and(|other| *other != domain) {
            return None;
        }
        found = Some(domain);
    }
    found
}

/// What stands in angle brackets, or alone, between the commas; quotes and comments are left out. None if something does not end.
fn addresses(text: &str) -> Option<Vec<String>> {
    let mut all = Vec::new();
    let mut plain = String::new();
    let mut bracketed: Option<String> = None;
    let mut in_brackets = false;
    let mut chars = text.chars();
    while let Some(char) = chars.next() {
        match char {
            '"' => skip_quoted(&mut chars)?,
            '(' => skip_comment(&mut chars)?,
            '<' if !in_brackets && bracketed.is_none() => {
                in_brackets = true;
                bracketed = Some(String::new());
            }
            '>' if in_brackets => in_brackets = false,
            '<' | '>' | ';' | ':' => return None,
            ',' if !in_brackets => all.push(bracketed.take().unwrap_or(std::mem::take(&mut plain))),
            _ => match (&mut bracketed, in_brackets) {
                (Some(address), true) => address.push(char),
                _ => plain.push(char),
            },
        }
        if char == ',' {
            plain.clear();
        }
    }
    all.push(bracketed.unwrap_or(plain));
    (!in_brackets).then_some(all)
}

fn skip_quoted(chars: &mut std::str::Chars<'_>) -> Option<()> {
    loop {
        match chars.next()? {
            '"' => return Some(()),
            '\\' => drop(chars.next()?),
            _ => {}
        }
    }
}

fn skip_comment(chars: &mut std::str::Chars<'_>) -> Option<()> {
    let mut depth = 1;
    while depth > 0 {
        match chars.next()? {
            '(' => depth += 1,
            ')' => depth -= 1,
            '\\' => drop(chars.next()?),
            _ => {}
        }
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_domain_is_found_in_any_dress() {
        let cases = [
            ("alice@example.org", Some("example.org")),
            ("Alice <Alice@EXAMPLE.org.>", Some("example.org")),
            ("\"Alice, <x@evil.example>\" <alice@example.org>", Some("example.org")),
            ("(x@evil.example) alice@example.org (a (b) \\) c)", Some("example.org")),
            ("x@evil.example <alice@example.org>", Some("example.org")),
            ("\"a@b\"@example.org", Some("example.org")),
            ("Alice\r\n <alice@example.org>", Some("example.org")),
            ("a@example.org, B <b@Example.org>", Some("example.org")),
            ("a@b\u{fc}cher.example", Some("b\u{fc}cher.example")),
            ("a@example.org, b@other.example", None),
            ("a@example.org, nobody", None),
            ("Friends: a@example.org;", None),
            ("<a@example.org> <b@other.example>", None),
            ("<a@example.org", None),
            ("a@[192.0.2.1]", None),
            ("a@exa mple.org", None),
            ("\"a@example.org", None),
            ("nobody", None),
            ("a@", None),
            ("", None),
        ];
        for (field, expected) in cases {
            let found = domain(&[field.as_bytes().to_vec()]);
            assert_eq!(found.as_deref(), expected, "{field}");
        }
        assert_eq!(domain(&[]), None);
        assert_eq!(domain(&[b"a@b.example".to_vec(), b"a@b.example".to_vec()]), None);
        assert_eq!(domain(&[vec![0xff, b'@', b'b']]), None);
    }
}
