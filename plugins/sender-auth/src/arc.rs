//! Whether trusted hops of an ARC chain say that a message was right when it came to them (RFC 8617 §7.2).

use gatepost_sdk::authentication::ArcSet;

use crate::results;

/// The hop that found DMARC to pass for this author's domain, if it and all hops behind it are trusted. `sets` is a chain that verified, the
/// oldest first.
pub fn voucher<'a>(sets: &'a [ArcSet], trusted: &[String], author: &str) -> Option<&'a str> {
    for set in sets.iter().rev() {
        if !trusted.iter().any(|domain| domain.eq_ignore_ascii_case(&set.sealer)) {
            return None;
        }
        let found = results::read(&set.results);
        match found.dmarc_pass {
            Some(from) => return from.is_none_or(|from| from == author).then_some(&set.sealer),
            // It saw what the hops before it had done to the message, and believes them.
            None if found.arc_pass => {}
            None => return None,
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_hops_back_to_the_one_that_saw_it_pass_are_trusted() {
        const PASS: &str = "i=1; x; dmarc=pass header.from=example.org";
        const ON: &str = "i=2; y; dmarc=fail; arc=pass";
        /// Sealers with what they had found.
        type Chain = &'static [(&'static str, &'static str)];
        let cases: [(Chain, Option<&str>); 10] = [
            (&[("list.example", PASS)], Some("list.example")),
            (&[("LIST.example", PASS)], Some("LIST.example")),
            (&[("list.example", PASS), ("forward.example", ON)], Some("list.example")),
            (&[("list.example", PASS), ("evil.example", ON)], None),
            (&[("evil.example", PASS), ("forward.example", ON)], None),
            (
                &[("evil.example", PASS), ("forward.example", PASS)],
                Some("forward.example"),
            ),
            (
                &[
                    ("list.example", PASS),
                    ("forward.example", "i=2; y; dmarc=fail; arc=fail"),
                ],
                None,
            ),
            (
                &[("list.example", "i=1; x; dmarc=pass header.from=other.example")],
                None,
            ),
            (&[("list.example", ON)], None),
            (&[], None),
        ];
        let trusted = ["list.example".to_owned(), "forward.example".to_owned()];
        for (chain, expected) in cases {
            let sets: Vec<ArcSet> = chain
                .iter()
                .map(|(sealer, results)| ArcSet {
                    sealer: (*sealer).to_owned(),
                    results: results.as_bytes().to_vec(),
                })
                .collect();
            assert_eq!(voucher(&sets, &trusted, "example.org"), expected, "{chain:?}");
        }
    }
}
