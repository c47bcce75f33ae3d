//! Command lines and their arguments (RFC 5321 §4.1.1 and the extensions' parameters).
//!
//! [`Verb::split`] takes the verb off a line, and one function a command turns the rest into a value, or
//! into the reply that refuses it. The grammar only is known here: whether a command is in order
//! now, and whether its values are within limits, is the session's to say.

use std::str;

use crate::address::Address;
use crate::error::AddressError;
use crate::reply::Reply;
use crate::session::Extensions;

/// Longest EHLO name, in bytes (a domain, RFC 5321 §4.5.3.1.2).
pub const MAX_EHLO_NAME: usize = 255;
/// Longest ENVID after decoding, in characters (RFC 3461 §4.4).
pub const MAX_ENVID: usize = 100;
/// Longest ORCPT value, in bytes (RFC 3461 §4.2 lets the whole command line grow by 500).
pub const MAX_ORCPT: usize = 500;
/// Longest AUTH value on MAIL, in bytes (RFC 4954 §4 lets the line grow by 500).
pub const MAX_MAIL_AUTH: usize = 500;

/// What a reply answers: a command, or one of the moments that are not commands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Verb {
    /// Not a command: the connection itself (banner, early talk, time-outs, shutdown).
    Connect,
    Helo,
    Ehlo,
    StartTls,
    Auth,
    Mail,
    Rcpt,
    Data,
    Bdat,
    /// Not a command: the end of a message's data.
    Message,
    Rset,
    Noop,
    Help,
    Vrfy,
    Quit,
    /// EXPN, ETRN, TURN, ATRN, SEND, SOML, SAML: known, and never implemented.
    Unimplemented,
    /// An HTTP request line.
    Http,
    /// Anything else, also lines that are no line.
    Unknown,
}

/// MAIL's reverse-path and parameters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MailFrom {
    /// `None` is the null sender `<>`.
    pub reverse_path: Option<Address>,
    /// SIZE as declared, in bytes (RFC 1870).
    pub size: Option<u64>,
    /// BODY, if given (RFC 6152).
    pub body: Option<Body>,
    /// Whether SMTPUTF8 was given (RFC 6531).
    pub smtputf8: bool,
    /// RET, if given (RFC 3461 §4.3).
    pub ret: Option<Ret>,
    /// ENVID as xtext, as given (RFC 3461 §4.4); decode it with [`decode_xtext`].
    pub envid: Option<Box<str>>,
    /// AUTH as xtext or `<>`, as given (RFC 4954 §5). Nothing vouches for it.
    pub auth: Option<Box<str>>,
}

/// RCPT's forward-path and parameters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recipient {
    pub address: Address,
    /// NOTIFY, if given (RFC 3461 §4.1).
    pub notify: Option<Notify>,
    /// ORCPT, `type;xtext` as given (RFC 3461 §4.2).
    pub orcpt: Option<Box<str>>,
}

/// BODY of MAIL. BINARYMIME is not offered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Body {
    SevenBit,
    EightBitMime,
}

/// RET of MAIL: what a bounce returns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ret {
    Full,
    Headers,
}

/// NOTIFY of RCPT. NEVER is all three `false`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Notify {
    pub success: bool,
    pub failure: bool,
    pub delay: bool,
}

impl Notify {
    /// NOTIFY=NEVER.
    pub const NEVER: Notify = Notify {
        success: false,
        failure: false,
        delay: false,
    };

    /// Whether no report at all is wanted.
    pub fn is_never(self) -> bool {
        self == Notify::NEVER
    }
}

impl Verb {
    /// The name as in the protocol, and in lower case what is no command. For logs and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Verb::Connect => "connect",
            Verb::Helo => "HELO",
            Verb::Ehlo => "EHLO",
            Verb::StartTls => "STARTTLS",
            Verb::Auth => "AUTH",
            Verb::Mail => "MAIL",
            Verb::Rcpt => "RCPT",
            Verb::Data => "DATA",
            Verb::Bdat => "BDAT",
            Verb::Message => "message",
            Verb::Rset => "RSET",
            Verb::Noop => "NOOP",
            Verb::Help => "HELP",
            Verb::Vrfy => "VRFY",
            Verb::Quit => "QUIT",
            Verb::Unimplemented => "unimplemented",
            Verb::Http => "http",
            Verb::Unknown => "unknown",
        }
    }

    /// Splits a line (without its CRLF) into the verb and its arguments. White space around the
    /// arguments is dropped (RFC 5321 §4.1.1: trailing space is to be tolerated).
    pub(crate) fn split(line: &[u8]) -> (Verb, &[u8]) {
        let end = line
            .iter()
            .position(|b| matches!(b, b' ' | b'\t'))
            .unwrap_or(line.len());
        let (word, arguments) = line.split_at(end);
        let mut upper = [0u8; LONGEST_VERB];
        let Some(upper) = upper.get_mut(..word.len()) else {
            return (Verb::Unknown, arguments.trim_ascii());
        };
        upper.copy_from_slice(word);
        upper.make_ascii_uppercase();
        let verb = match &*upper {
            b"HELO" => Verb::Helo,
            b"EHLO" => Verb::Ehlo,
            b"STARTTLS" => Verb::StartTls,
            b"AUTH" => Verb::Auth,
            b"MAIL" => Verb::Mail,
            b"RCPT" => Verb::Rcpt,
            b"DATA" => Verb::Data,
            b"BDAT" => Verb::Bdat,
            b"RSET" => Verb::Rset,
            b"NOOP" => Verb::Noop,
            b"HELP" => Verb::Help,
            b"VRFY" => Verb::Vrfy,
            b"QUIT" => Verb::Quit,
            b"EXPN" | b"ETRN" | b"TURN" | b"ATRN" | b"SEND" | b"SOML" | b"SAML" => Verb::Unimplemented,
            // `PRI` opens HTTP/2.
            b"GET" | b"POST" | b"PUT" | b"HEAD" | b"DELETE" | b"OPTIONS" | b"CONNECT" | b"TRACE" | b"PATCH"
            | b"PRI" => Verb::Http,
            _ => Verb::Unknown,
        };
        (verb, arguments.trim_ascii())
    }
}

const LONGEST_VERB: usize = 8;

const MAIL_SYNTAX: &str = "Syntax: MAIL FROM:<address> [parameters]";
const RCPT_SYNTAX: &str = "Syntax: RCPT TO:<address> [parameters]";

/// The name behind EHLO or HELO. Clients put all sorts of words there, so any word of printable ASCII will
/// do; what it is worth is for policy to say.
pub(crate) fn parse_ehlo(arguments: &[u8]) -> Result<String, Reply> {
    let printable = arguments.iter().all(u8::is_ascii_graphic);
    match str::from_utf8(arguments) {
        Ok(name) if printable && (1..=MAX_EHLO_NAME).contains(&name.len()) => Ok(name.to_owned()),
        _ => Err(Reply::bad_arguments("Syntax: EHLO hostname")),
    }
}

/// What MAIL and RCPT may carry in this session.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Offered {
    /// EHLO was used; HELO knows no parameters.
    pub esmtp: bool,
    pub extensions: Extensions,
    pub auth: bool,
}

impl Offered {
    pub fn has(self, extension: Extensions) -> bool {
        self.esmtp && self.extensions.contains(extension)
    }
}

/// `FROM:<reverse-path> [parameters]`.
pub(crate) fn parse_mail(arguments: &[u8], offered: Offered) -> Result<MailFrom, Reply> {
    let (path, parameters) = split_path(arguments, b"FROM:").ok_or(Reply::bad_arguments(MAIL_SYNTAX))?;
    let mut mail = MailFrom {
        reverse_path: None,
        size: None,
        body: None,
        smtputf8: false,
        ret: None,
        envid: None,
        auth: None,
    };
    for parameter in Parameters(parameters) {
        let (keyword, value) = parameter?;
        match (keyword, value) {
            (b"SIZE", Some(value)) if offered.has(Extensions::SIZE) => {
                let size = parse_number(value).ok_or(BAD_SIZE)?;
                once(&mut mail.size, size)?;
            }
            (b"BODY", Some(value)) if offered.has(Extensions::EIGHT_BIT_MIME) => {
                let body = match value.to_ascii_uppercase().as_slice() {
                    b"7BIT" => Body::SevenBit,
                    b"8BITMIME" => Body::EightBitMime,
                    _ => return Err(Reply::unknown_parameter()),
                };
                once(&mut mail.body, body)?;
            }
            (b"SMTPUTF8", None) if offered.has(Extensions::SMTPUTF8) => {
                if std::mem::replace(&mut mail.smtputf8, true) {
                    return Err(TWICE);
                }
            }
            (b"RET", Some(value)) if offered.has(Extensions::DSN) => {
                let ret = match value.to_ascii_uppercase().as_slice() {
                    b"FULL" => Ret::Full,
                    b"HDRS" => Ret::Headers,
                    _ => return Err(BAD_RET),
                };
                once(&mut mail.ret, ret)?;
            }
            (b"ENVID", Some(value)) if offered.has(Extensions::DSN) => {
                let value = xtext(value).ok_or(BAD_ENVID)?;
                let decoded = decode_xtext(value).ok_or(BAD_ENVID)?;
                let printable = decoded.iter().all(|b| matches!(b, b' '..=b'~'));
                if decoded.is_empty() || decoded.len() > MAX_ENVID || !printable {
                    return Err(BAD_ENVID);
                }
                once(&mut mail.envid, value.into())?;
            }
            (b"AUTH", Some(value)) if offered.esmtp && offered.auth => {
                let value = match value {
                    b"<>" => "<>",
                    value => xtext(value).ok_or(BAD_MAIL_AUTH)?,
                };
                if value.is_empty() || value.len() > MAX_MAIL_AUTH {
                    return Err(BAD_MAIL_AUTH);
                }
                once(&mut mail.auth, value.into())?;
            }
            _ => return Err(Reply::unknown_parameter()),
        }
    }
    if !path.is_empty() {
        let path = text_of(path, mail.smtputf8)?.map_err(Reply::bad_sender)?;
        let address = Address::parse(path).map_err(Reply::bad_sender)?;
        mail.reverse_path = Some(address);
    }
    Ok(mail)
}

/// `TO:<forward-path> [parameters]`; `smtputf8` as MAIL said.
pub(crate) fn parse_rcpt(arguments: &[u8], offered: Offered, smtputf8: bool) -> Result<Recipient, Reply> {
    let (path, parameters) = split_path(arguments, b"TO:").ok_or(Reply::bad_arguments(RCPT_SYNTAX))?;
    let mut notify = None;
    let mut orcpt = None;
    for parameter in Parameters(parameters) {
        let (keyword, value) = parameter?;
        match (keyword, value) {
            (b"NOTIFY", Some(value)) if offered.has(Extensions::DSN) => {
                once(&mut notify, parse_notify(value).ok_or(BAD_NOTIFY)?)?;
            }
            (b"ORCPT", Some(value)) if offered.has(Extensions::DSN) => {
                let value = parse_orcpt(value, smtputf8).ok_or(BAD_ORCPT)?;
                once(&mut orcpt, value.into())?;
            }
            _ => return Err(Reply::unknown_parameter()),
        }
    }
    let path = text_of(path, smtputf8)?.map_err(Reply::bad_recipient)?;
    let address = Address::parse(path).map_err(Reply::bad_recipient)?;
    Ok(Recipient { address, notify, orcpt })
}

/// `size [LAST]` (RFC 3030 §2).
pub(crate) fn parse_bdat(arguments: &[u8]) -> Result<(u64, bool), Reply> {
    let syntax = Reply::bad_arguments("Syntax: BDAT size [LAST]");
    let mut words = arguments.split(|b| *b == b' ').filter(|word| !word.is_empty());
    let size = words.next().and_then(parse_number);
    let last = words.next();
    match (size, last, words.next()) {
        (Some(size), None, _) => Ok((size, false)),
        (Some(size), Some(last), None) if last.eq_ignore_ascii_case(b"LAST") => Ok((size, true)),
        _ => Err(syntax),
    }
}

/// `mechanism [initial-response]` (RFC 4954 §4): the mechanism in upper case, and the response as it is.
pub(crate) fn parse_auth(arguments: &[u8]) -> Result<(String, Option<&[u8]>), Reply> {
    let syntax = Reply::bad_arguments("Syntax: AUTH mechanism [initial-response]");
    let mut words = arguments.split(|b| *b == b' ').filter(|word| !word.is_empty());
    // RFC 4422 §3.1: up to 20 letters, digits, hyphens and underscores.
    let mechanism = words.next().filter(|word| {
        let allowed = |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_');
        word.len() <= 20 && word.iter().all(allowed)
    });
    match (mechanism, words.next(), words.next()) {
        (Some(mechanism), initial, None) => Ok((String::from_utf8_lossy(mechanism).to_ascii_uppercase(), initial)),
        _ => Err(syntax),
    }
}

/// Decodes xtext (RFC 3461 §4); `None` if it is none.
pub fn decode_xtext(text: &str) -> Option<Vec<u8>> {
    let mut decoded = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        match byte {
            b'+' => {
                let mut digit = || {
                    let digit = bytes.next()?;
                    // The RFC wants capitals.
                    let upper = matches!(digit, b'0'..=b'9' | b'A'..=b'F');
                    upper.then(|| char::from(digit).to_digit(16)).flatten()
                };
                let value = digit()? * 16 + digit()?;
                decoded.push(u8::try_from(value).ok()?);
            }
            b'!'..=b'~' if byte != b'=' => decoded.push(byte),
            _ => return None,
        }
    }
    Some(decoded)
}

const fn argument_error(why: &'static str) -> Reply {
    Reply::fixed(501, crate::reply::Enhanced(5, 5, 4), why)
}

const TWICE: Reply = argument_error("Parameter given twice");
const BAD_PARAMETER: Reply = argument_error("Bad parameter syntax");
const BAD_SIZE: Reply = argument_error("Bad SIZE parameter");
const BAD_RET: Reply = argument_error("Bad RET parameter");
const BAD_ENVID: Reply = argument_error("Bad ENVID parameter");
const BAD_MAIL_AUTH: Reply = argument_error("Bad AUTH parameter");
const BAD_NOTIFY: Reply = argument_error("Bad NOTIFY parameter");
const BAD_ORCPT: Reply = argument_error("Bad ORCPT parameter");

fn once<T>(slot: &mut Option<T>, value: T) -> Result<(), Reply> {
    match slot.replace(value) {
        None => Ok(()),
        Some(_) => Err(TWICE),
    }
}

/// Splits `FROM:<path> parameters` into the path without its brackets and the parameters. One space
/// or more behind the colon is let pass: it is a common mistake, and harmless.
fn split_path<'a>(arguments: &'a [u8], keyword: &[u8]) -> Option<(&'a [u8], &'a [u8])> {
    let (head, rest) = arguments.split_at_checked(keyword.len())?;
    if !head.eq_ignore_ascii_case(keyword) {
        return None;
    }
    let path = rest.trim_ascii_start().strip_prefix(b"<")?;
    let mut quoted = false;
    let mut escaped = false;
    let end = path.iter().position(|&byte| {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            b'>' if !quoted => return true,
            _ => {}
        }
        false
    })?;
    let (path, rest) = (&path[..end], &path[end + 1..]);
    match rest.first() {
        None | Some(b' ' | b'\t') => Some((path, rest.trim_ascii())),
        Some(_) => None,
    }
}

/// A path as text: the outer error is the missing SMTPUTF8 (RFC 6531 §3.5).
fn text_of(path: &[u8], smtputf8: bool) -> Result<Result<&str, AddressError>, Reply> {
    if !smtputf8 && !path.is_ascii() {
        return Err(Reply::needs_smtputf8());
    }
    Ok(str::from_utf8(path).map_err(|_| AddressError::NotUtf8))
}

/// Iterates over `KEYWORD[=value]` separated by spaces (RFC 5321 §4.1.2, esmtp-param).
struct Parameters<'a>(&'a [u8]);

impl<'a> Iterator for Parameters<'a> {
    /// The keyword in upper case, if it is a known one at all, and the value.
    type Item = Result<(&'static [u8], Option<&'a [u8]>), Reply>;

    fn next(&mut self) -> Option<Self::Item> {
        let text = self.0.trim_ascii_start();
        if text.is_empty() {
            return None;
        }
        let end = text
            .iter()
            .position(|b| matches!(b, b' ' | b'\t'))
            .unwrap_or(text.len());
        let (parameter, rest) = text.split_at(end);
        self.0 = rest;
        let equals = parameter.iter().position(|b| *b == b'=');
        let (keyword, value) = match equals {
            Some(at) => (&parameter[..at], Some(&parameter[at + 1..])),
            None => (parameter, None),
        };
        let is_keyword = keyword.first().is_some_and(u8::is_ascii_alphanumeric)
            && keyword.iter().all(|b| b.is_ascii_alphanumeric() || *b == b'-');
        // The value of ORCPT may be UTF-8 (RFC 6533 §3).
        let is_value = value.is_none_or(|value| !value.is_empty() && value.iter().all(|b| *b > b' ' && *b != 0x7f));
        if !is_keyword || !is_value {
            return Some(Err(BAD_PARAMETER));
        }
        let known = KEYWORDS.iter().find(|known| known.eq_ignore_ascii_case(keyword));
        Some(match known {
            Some(known) => Ok((known, value)),
            None => Err(Reply::unknown_parameter()),
        })
    }
}

const KEYWORDS: [&[u8]; 8] = [
    b"SIZE",
    b"BODY",
    b"SMTPUTF8",
    b"RET",
    b"ENVID",
    b"AUTH",
    b"NOTIFY",
    b"ORCPT",
];

/// 1 to 20 digits (RFC 1870 §5, RFC 3030 §2) that fit 64 bits.
fn parse_number(text: &[u8]) -> Option<u64> {
    if !(1..=20).contains(&text.len()) || !text.iter().all(u8::is_ascii_digit) {
        return None;
    }
    str::from_utf8(text).ok()?.parse().ok()
}

/// xtext as given, checked to be ASCII; what it decodes to is checked by `decode_xtext`.
fn xtext(value: &[u8]) -> Option<&str> {
    let value = str::from_utf8(value).ok()?;
    decode_xtext(value).map(|_| value)
}

/// RFC 3461 §4.1: NEVER alone, or a list of the others.
fn parse_notify(value: &[u8]) -> Option<Notify> {
    if value.eq_ignore_ascii_case(b"NEVER") {
        return Some(Notify::NEVER);
    }
    let mut notify = Notify::default();
    for word in value.split(|b| *b == b',') {
        let flag = if word.eq_ignore_ascii_case(b"SUCCESS") {
            &mut notify.success
        } else if word.eq_ignore_ascii_case(b"FAILURE") {
            &mut notify.failure
        } else if word.eq_ignore_ascii_case(b"DELAY") {
            &mut notify.delay
        } else {
            return None;
        };
        *flag = true;
    }
    Some(notify)
}

/// RFC 3461 §4.2: `addr-type;xtext`; RFC 6533 §3: `utf-8;` with its own escapes or, in a SMTPUTF8
/// transaction, UTF-8 as it is.
fn parse_orcpt(value: &[u8], smtputf8: bool) -> Option<&str> {
    let value = str::from_utf8(value).ok()?;
    let (kind, address) = value.split_once(';')?;
    let is_atom = !kind.is_empty() && kind.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
    let is_address = if kind.eq_ignore_ascii_case("utf-8") {
        let plain = |c: char| !matches!(c, '+' | '=') && (c.is_ascii_graphic() || !c.is_ascii());
        (smtputf8 || address.is_ascii()) && address.chars().all(plain)
    } else {
        decode_xtext(address).is_some()
    };
    (is_atom && is_address && !address.is_empty() && value.len() <= MAX_ORCPT).then_some(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    const OFFERED: Offered = Offered {
        esmtp: true,
        extensions: Extensions::ALL,
        auth: true,
    };

    fn mail(arguments: &str) -> Result<MailFrom, String> {
        parse_mail(arguments.as_bytes(), OFFERED).map_err(|reply| reply.to_string())
    }

    fn rcpt(arguments: &str) -> Result<Recipient, String> {
        parse_rcpt(arguments.as_bytes(), OFFERED, false).map_err(|reply| reply.to_string())
    }

    #[test]
    fn verbs() {
        let cases: [(&[u8], Verb, &[u8]); 9] = [
            (b"EHLO  a ", Verb::Ehlo, b"a"),
            (b"mail from:<>", Verb::Mail, b"from:<>"),
            (b"Quit", Verb::Quit, b""),
            (b"", Verb::Unknown, b""),
            (b" NOOP", Verb::Unknown, b"NOOP"),
            (b"GET / HTTP/1.1", Verb::Http, b"/ HTTP/1.1"),
            (b"STARTTLSX", Verb::Unknown, b""),
            (b"EXPN list", Verb::Unimplemented, b"list"),
            (b"\xff\xfe", Verb::Unknown, b""),
        ];
        for (line, verb, arguments) in cases {
            assert_eq!(Verb::split(line), (verb, arguments));
        }
    }

    #[test]
    fn parameters_of_mail() {
        let parsed = mail("FROM:<a@b.example> size=10 BODY=8bitmime SMTPUTF8 RET=hdrs ENVID=x+2By AUTH=<>")
            .expect("all are offered");
        assert_eq!(parsed.size, Some(10));
        assert_eq!(parsed.body, Some(Body::EightBitMime));
        assert!(parsed.smtputf8);
        assert_eq!(parsed.ret, Some(Ret::Headers));
        assert_eq!(parsed.envid.as_deref(), Some("x+2By"));
        assert_eq!(decode_xtext("x+2By").as_deref(), Some(&b"x+y"[..]));
        assert_eq!(parsed.auth.as_deref(), Some("<>"));
        assert_eq!(mail("FROM: <> AUTH=e+3Dmc2@x").map(|m| m.reverse_path), Ok(None));
    }

    #[test]
    fn parameters_of_rcpt() {
        let parsed = rcpt("TO:<a@b.example> NOTIFY=SUCCESS,delay ORCPT=rfc822;a+2B@b").expect("ok");
        let notify = parsed.notify.expect("given");
        assert!(notify.success && notify.delay && !notify.failure && !notify.is_never());
        assert_eq!(parsed.orcpt.as_deref(), Some("rfc822;a+2B@b"));
        let never = rcpt("TO:<a@b.example> NOTIFY=NEVER").expect("ok").notify;
        assert_eq!(never, Some(Notify::NEVER));
    }

    #[test]
    fn refused_arguments() {
        let long_envid = format!("FROM:<> ENVID={}", "x".repeat(MAX_ENVID + 1));
        let mail_cases = [
            ("", "501 5.5.4"),
            ("FROM:", "501 5.5.4"),
            ("FROM:a@b", "501 5.5.4"),
            ("FROM:<a@b", "501 5.5.4"),
            ("FROM <a@b>", "501 5.5.4"),
            ("TO:<a@b>", "501 5.5.4"),
            ("FROM:<a@b>SIZE=1", "501 5.5.4"),
            ("FROM:<\"a>@b>", "501 5.5.4"),
            ("FROM:<a b@c>", "501 5.1.7"),
            ("FROM:<<a@b>>", "501 5.5.4"),
            ("FROM:<a@b> SIZE", "555 5.5.4"),
            ("FROM:<a@b> SIZE=", "501 5.5.4"),
            ("FROM:<a@b> SIZE=-1", "501 5.5.4"),
            ("FROM:<a@b> SIZE=99999999999999999999", "501 5.5.4"),
            ("FROM:<a@b> SIZE=1 SIZE=1", "501 5.5.4"),
            ("FROM:<a@b> SMTPUTF8 SMTPUTF8", "501 5.5.4"),
            ("FROM:<a@b> SMTPUTF8=1", "555 5.5.4"),
            ("FROM:<a@b> BODY=BINARYMIME", "555 5.5.4"),
            ("FROM:<a@b> NOTIFY=NEVER", "555 5.5.4"),
            ("FROM:<a@b> X-FOO=1", "555 5.5.4"),
            ("FROM:<a@b> =1", "501 5.5.4"),
            ("FROM:<a@b> RET=x", "501 5.5.4"),
            ("FROM:<a@b> ENVID=x+2", "501 5.5.4"),
            ("FROM:<a@b> ENVID=+0A", "501 5.5.4"),
            (&long_envid, "501 5.5.4"),
            ("FROM:<\u{fc}@b>", "553 5.6.7"),
        ];
        for (arguments, expected) in mail_cases {
            let refused = mail(arguments).expect_err(arguments);
            assert!(refused.starts_with(expected), "{arguments}: {refused}");
        }
        let rcpt_cases = [
            ("TO:<>", "501 5.1.3"),
            ("TO:<u@r@ours>", "501 5.1.3"),
            ("TO:<a@b> SIZE=1", "555 5.5.4"),
            ("TO:<a@b> NOTIFY=NEVER,DELAY", "501 5.5.4"),
            ("TO:<a@b> NOTIFY=", "501 5.5.4"),
            ("TO:<a@b> ORCPT=x", "501 5.5.4"),
            ("TO:<a@b> ORCPT=rfc822;", "501 5.5.4"),
            ("TO:<a@b> ORCPT=rfc822;a=b", "501 5.5.4"),
            ("TO:<a@b> ORCPT=utf-8;\u{fc}", "501 5.5.4"),
        ];
        for (arguments, expected) in rcpt_cases {
            let refused = rcpt(arguments).expect_err(arguments);
            assert!(refused.starts_with(expected), "{arguments}: {refused}");
        }
    }

    #[test]
    fn helo_knows_no_parameters() {
        let helo = Offered {
            esmtp: false,
            ..OFFERED
        };
        for parameter in ["SIZE=1", "BODY=7BIT", "SMTPUTF8", "RET=FULL", "ENVID=x", "AUTH=<>"] {
            let arguments = format!("FROM:<> {parameter}");
            let refused = parse_mail(arguments.as_bytes(), helo).map_err(|reply| reply.code());
            assert_eq!(refused, Err(555), "{parameter}");
        }
    }

    #[test]
    fn utf8_addresses_need_smtputf8() {
        let path = "TO:<\u{fc}@b\u{fc}cher.example>".as_bytes();
        let with = parse_rcpt(path, OFFERED, true).expect("SMTPUTF8 was given");
        assert_eq!(with.address.canonical_domain(), Some("xn--bcher-kva.example"));
        let bad = parse_rcpt(b"TO:<\xff@b>", OFFERED, true).map_err(|reply| reply.code());
        assert_eq!(bad, Err(501));
    }

    #[test]
    fn sizes_of_chunks() {
        assert_eq!(parse_bdat(b"10"), Ok((10, false)));
        assert_eq!(parse_bdat(b"0  last"), Ok((0, true)));
        for bad in ["", "x", "-1", "10 FIRST", "10 LAST LAST", "99999999999999999999"] {
            assert!(parse_bdat(bad.as_bytes()).is_err(), "{bad}");
        }
    }
}
