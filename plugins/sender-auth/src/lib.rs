//! Says in Authentication-Results what the host's checks of the sender came to, and, if configured, does what the author's domain asks for by
//! DMARC and the envelope sender's by SPF.
//!
//! It is asked when the message is there, as DKIM, DMARC and ARC need it. Fields in which a message speaks as this relay are removed, whoever
//! sent it. Those who authenticated and trusted networks are not checked by default: their mail begins here.
//!
//! Never: refuses anything without configuration (but a header of which the end is out of reach), or changes what others wrote.
//!
//! Fails at load if a network or a domain is none.

mod arc;
mod config;
mod header;
mod results;
mod syntax;

use config::{Config, Mode, SpfFail, TemporaryErrors};
use gatepost_sdk::authentication::{self, Check, DmarcPolicy, DmarcRequest, Status};
use gatepost_sdk::prelude::*;
use gatepost_sdk::random;
use header::{End, HEADER_BYTES};

/// The configured policy.
pub struct SenderAuth(Config);

impl Policy for SenderAuth {
    type Config = Config;

    fn new(config: Config) -> Result<Self, String> {
        config::check(config).map(Self)
    }
}

impl OnMessage for SenderAuth {
    fn on_message(&self, session: &Session, message: &Message) -> Answer {
        let end = header::end(message);
        if end == End::Cut {
            return Answer::reject(550, "5.6.0", "The header of the message is too long").because(
                "header-too-long",
                format!(
                    "the header is over {HEADER_BYTES} bytes: what speaks in our name behind them could not be removed"
                ),
                "send it with a shorter header",
            );
        }
        let hostname = session.hostname();
        let forged = header::forged(message, &hostname);
        if self.is_exempt(session) {
            let answer = forged.remove(Answer::pass());
            return match end {
                End::Open => header::add(answer, results::write(&hostname, &[], None, false), end),
                _ => answer,
            };
        }
        let checks = authentication::check_message(session, message);
        let policy = authentication::author_policy(session, message);
        let helo = session.sender().is_none_or(|sender| sender.is_empty());
        let value = results::write(&hostname, &checks, policy.as_ref(), helo);
        let found = Found {
            checks: &checks,
            policy: policy.as_ref(),
            session,
        };
        let answer = self.judge(&found, || authentication::arc_sets(session, message));
        if !matches!(answer.decision, Decision::Pass) {
            return answer;
        }
        header::add(forged.remove(answer), value, end)
    }
}

/// What is known of one message.
struct Found<'a> {
    checks: &'a [Check],
    policy: Option<&'a DmarcPolicy>,
    session: &'a Session,
}

impl Found<'_> {
    /// The client's address.
    fn client(&self) -> String {
        self.session.peer().address
    }

    /// Status and subject of the one check of this method.
    fn of(&self, method: &str) -> (Status, &str) {
        let check = self.checks.iter().find(|check| check.method == method);
        check.map_or((Status::None, ""), |check| (check.status, &check.subject))
    }

    /// All of them, for the log: `spf=fail example.org, dkim=none, ...`.
    fn in_words(&self) -> String {
        let words = |check: &Check| format!("{}={} {}", check.method, results::status(check.status), check.subject);
        let all: Vec<String> = self
            .checks
            .iter()
            .map(|check| words(check).trim_end().to_owned())
            .collect();
        all.join(", ")
    }
}

impl SenderAuth {
    fn is_exempt(&self, session: &Session) -> bool {
        let authenticated = || session.identity().is_some();
        let trusted = || session.peer().trusted;
        !self.0.check_authenticated && authenticated() || !self.0.check_trusted_networks && trusted()
    }

    fn is_forwarder(&self, found: &Found<'_>) -> bool {
        !self.0.forwarders.is_empty() && self.0.is_forwarder(&found.client())
    }

    fn judge(&self, found: &Found<'_>, arc_sets: impl FnOnce() -> Vec<authentication::ArcSet>) -> Answer {
        let (dmarc, author) = found.of("dmarc");
        let author = author.to_ascii_lowercase();
        let mode = self.0.mode(&author);
        match dmarc {
            Status::Pass => Answer::pass(),
            Status::Fail => match self.asked_for(found.policy) {
                DmarcRequest::None => self.judge_spf(found, mode),
                asked => self.dmarc_failed(found, &author, mode, asked, arc_sets),
            },
            Status::Temperror if mode == Mode::Enforce && self.0.temporary_errors == TemporaryErrors::Defer => {
                Answer::defer(
                    451,
                    "4.7.1",
                    format!("DMARC of {author} cannot be checked now: try again later"),
                )
                .because(
                    "dmarc-temporary-error",
                    found.in_words(),
                    "it comes again by itself; if it lasts, the name servers of the author's domain do not answer",
                )
            }
            _ if author.is_empty() && mode == Mode::Enforce => self.author_unclear(found),
            _ => self.judge_spf(found, mode),
        }
    }

    /// What the domain asks for, for this message: `pct` of them, and for the others one step less (RFC 7489 §6.6.4).
    fn asked_for(&self, policy: Option<&DmarcPolicy>) -> DmarcRequest {
        let Some(policy) = policy else {
            return DmarcRequest::None;
        };
        if policy.percent >= 100 || random::get_u64() % 100 < policy.percent.into() {
            return policy.request;
        }
        match policy.request {
            DmarcRequest::Reject => DmarcRequest::Quarantine,
            DmarcRequest::Quarantine | DmarcRequest::None => DmarcRequest::None,
        }
    }

    fn dmarc_failed(
        &self,
        found: &Found<'_>,
        author: &str,
        mode: Mode,
        asked: DmarcRequest,
        arc_sets: impl FnOnce() -> Vec<authentication::ArcSet>,
    ) -> Answer {
        if mode == Mode::Ignore {
            return Answer::pass();
        }
        if self.is_forwarder(found) {
            let detail = format!("{} is in `forwarders`; {}", found.client(), found.in_words());
            return Answer::pass().because("trusted-forwarder", detail, "");
        }
        if !self.0.arc_sealers.is_empty()
            && let sets = arc_sets()
            && let Some(sealer) = arc::voucher(&sets, &self.0.arc_sealers, author)
        {
            let detail = format!("{sealer} found DMARC of {author} to pass; {}", found.in_words());
            return Answer::pass().because("trusted-sealer", detail, "");
        }
        let asks = results::request(asked);
        let text = format!("Message refused: {author} asks to {asks} mail that fails DMARC (dmarc-fail)");
        let answer = match (mode, asked) {
            (Mode::Enforce, DmarcRequest::Reject) => Answer::reject(550, "5.7.1", text),
            (Mode::Enforce, _) => Answer::pass()
                .tag("dmarc", "fail")
                .quarantine(format!("{author} asks to quarantine mail that fails DMARC")),
            _ => Answer::pass().tag("dmarc", "fail"),
        };
        answer
            .because(
                "dmarc-fail",
                format!("{author} asks to {asks}; {}", found.in_words()),
                "send it through a server of the author's domain, signed by it (DKIM) or named in its SPF record; the administrator can set \
                 another mode for the domain in `domains` of sender-auth, or name the server in `forwarders` or its domain in `arc_sealers`",
            )
            .otherwise(format!("DKIM or SPF that passes for {author}"))
    }

    /// DMARC exempts such mail, and so everybody who forges a second author (RFC 7489 §6.6.1 leaves it to the receiver).
    fn author_unclear(&self, found: &Found<'_>) -> Answer {
        let text = "Message refused: From must name one author's domain (author-unclear)";
        Answer::reject(550, "5.7.1", text).because(
            "author-unclear",
            format!("From names no domain, or several; {}", found.in_words()),
            "send it with one From field whose addresses are of one domain",
        )
    }

    /// SPF on its own: where DMARC has not passed.
    fn judge_spf(&self, found: &Found<'_>, mode: Mode) -> Answer {
        if self.0.spf_fail == SpfFail::Tag || mode == Mode::Ignore || self.is_forwarder(found) {
            return Answer::pass();
        }
        let client = found.client();
        match found.of("spf") {
            (Status::Fail, domain) => {
                let text = format!("Message refused: {domain} does not let {client} send its mail (spf-fail)");
                Answer::reject(550, "5.7.23", text)
                    .because(
                        "spf-fail",
                        found.in_words(),
                        "send through a server that the domain's SPF record names, or have this one put into it; the administrator can name \
                         a server that forwards in `forwarders` of sender-auth",
                    )
                    .otherwise(format!("a server that the SPF record of {domain} names"))
            }
            (Status::Temperror, domain) if self.0.temporary_errors == TemporaryErrors::Defer => Answer::defer(
                451,
                "4.7.24",
                format!("SPF of {domain} cannot be checked now: try again later"),
            )
            .because(
                "spf-temporary-error",
                found.in_words(),
                "it comes again by itself; if it lasts, the name servers of the sender's domain do not answer",
            ),
            _ => Answer::pass(),
        }
    }
}

gatepost_sdk::export!(SenderAuth: on_message);

#[cfg(test)]
mod tests;
