//! Which hop gets what: routes, policy, MX, TLS.

use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio_rustls::TlsAcceptor;

use super::*;
use crate::dns::testing;

#[tokio::test]
async fn routes_maildirs_and_policies_choose() {
    let mut inside = Hop::start("").await;
    let mut outside = Hop::start("").await;
    let folder = tempfile::tempdir().expect("a temporary folder");
    let maildir = folder.path().join("maildir");
    let config = format!(
        "[delivery]\nnext_hop = \"smtp://{}\"\n\
         [[route]]\nname = \"inside\"\ndomains = [\"in.example\"]\nnext_hop = \"smtp://{}\"\n\
         [[route]]\nname = \"local\"\ndomains = [\"local.example\"]\nnext_hop = \"maildir:{}\"\n\
         [[route]]\nname = \"chosen\"\nnext_hop = \"discard:\"\n",
        outside.address,
        inside.address,
        maildir.display()
    );
    let mut options = Options::new(config);
    options.route = |address| {
        let refusal = |code, text| gatepost_smtp::reply::Reply::new(code, None, text);
        match address.split('@').next() {
            Some("chosen") => RouteDecision::Go(RouteChoice {
                route: Some("chosen".into()),
                ..RouteChoice::default()
            }),
            Some("unknown") => RouteDecision::Go(RouteChoice {
                route: Some("nowhere".into()),
                ..RouteChoice::default()
            }),
            Some("fail") => RouteDecision::Fail(refusal(550, "policy says no")),
            Some("defer") => RouteDecision::Defer {
                reply: refusal(450, "policy says later"),
                pause: None,
            },
            Some("discard") => RouteDecision::Discard,
            _ => RouteDecision::PASS,
        }
    };
    let mut rig = Rig::start(options).await;
    let recipients = [
        "1@IN.example",
        "2@far.example",
        "3@local.example",
        "chosen@far.example",
        "unknown@in.example",
        "fail@in.example",
        "defer@in.example",
        "discard@in.example",
        "\"8@in.example\"@far.example",
        "postmaster",
    ];
    rig.submit(mail("", &recipients)).await;
    assert!(
        inside
            .message()
            .await
            .commands
            .contains(&"RCPT TO:<1@IN.example>".to_owned())
    );
    let far = outside.message().await.commands;
    let far: Vec<&String> = far.iter().filter(|command| command.starts_with("RCPT")).collect();
    assert_eq!(
        far,
        [
            "RCPT TO:<2@far.example>",
            "RCPT TO:<\"8@in.example\"@far.example>",
            "RCPT TO:<postmaster>"
        ]
    );
    let mut ends = Vec::new();
    for _ in 0..recipients.len() {
        ends.push(rig.attempt().await);
    }
    ends.sort();
    assert!(ends[2].starts_with("2 delivered: 250 2.0.0 stored as "), "{}", ends[2]);
    ends.remove(2);
    assert_eq!(
        ends,
        [
            "0 delivered: 250 2.0.0 fine",
            "1 delivered: 250 2.0.0 fine",
            "3 delivered: 250 2.0.0 discarded",
            "4 deferred: 451 4.3.5 a policy chose the route \"nowhere\", which is not configured",
            "5 failed: 550 policy says no",
            "6 deferred: 450 policy says later",
            "7 discarded: 250 discarded by policy",
            "8 delivered: 250 2.0.0 fine",
            "9 delivered: 250 2.0.0 fine",
        ]
    );
    assert_eq!(std::fs::read_dir(maildir.join("new")).expect("the maildir").count(), 1);
    let rest = rig.rest().await;
    let pending = |state: &QueueState| {
        state
            .envelope
            .recipients
            .iter()
            .filter(|rcpt| rcpt.status == RecipientStatus::Pending)
            .count()
    };
    assert_eq!((rest.len(), pending(&rest[0].1)), (1, 2));
}

#[tokio::test]
async fn a_policy_holds_a_message() {
    let hop = Hop::start("").await;
    let mut options = Options::to(&hop);
    options.route = |address| match address {
        "hold@y.example" => RouteDecision::Hold("suspicious".into()),
        _ => RouteDecision::PASS,
    };
    let mut rig = Rig::start(options).await;
    rig.submit(mail("a@x.example", &["hold@y.example", "b@y.example"]))
        .await;
    assert!(rig.attempt().await.starts_with("1 delivered"));
    let rest = rig.rest().await;
    assert_eq!(rest[0].1.held.as_deref(), Some("suspicious"));
    assert_eq!(rest[0].1.envelope.recipients[0].status, RecipientStatus::Pending);
}

#[tokio::test]
async fn mail_exchangers_in_order_and_what_is_wrong_with_them() {
    let mut hop = Hop::start("").await;
    let zone = "
        good.example MX 20 hop.example.
        good.example MX 10 dead.example.
        dead.example A 127.0.0.2
        hop.example A 127.0.0.1
        direct.example A 127.0.0.1
        null.example MX 0 .
        relay.example A 127.0.0.1
        self.example MX 10 relay.example.
        third.example MX 10 relay.example.
        third.example MX 20 hop.example.
        backup.example MX 10 hop.example.
        backup.example MX 20 relay.example.
        listener.example MX 10 mine.example.
        mine.example A 127.0.0.3
        broken.example FAIL
        lame.example MX 10 broken.example.
        empty.example TXT nothing
        dangling.example MX 10 nowhere.example.
    ";
    let mut options = Options::new(String::new());
    options.dns = Some(testing::resolver(zone).await);
    options.mx_port = hop.address.port();
    options.listeners = vec![([127, 0, 0, 3], hop.address.port()).into()];
    let mut rig = Rig::start(options).await;
    let cases = [
        ("u@good.example", "delivered: 250"),
        ("u@direct.example", "delivered: 250"),
        ("u@backup.example", "delivered: 250"),
        ("u@[127.0.0.1]", "delivered: 250"),
        (
            "u@null.example",
            "failed: 556 5.1.10 the domain null.example takes no mail (null MX)",
        ),
        ("u@self.example", "failed: 554 5.4.6 mail for self.example loops back"),
        ("u@third.example", "failed: 554 5.4.6 mail for third.example loops back"),
        (
            "u@listener.example",
            "failed: 554 5.4.6 mail for listener.example loops back",
        ),
        ("u@[127.0.0.3]", "failed: 554 5.4.6 "),
        (
            "u@absent.example",
            "failed: 550 5.1.2 the domain absent.example does not exist",
        ),
        (
            "u@empty.example",
            "failed: 550 5.1.2 cannot find the address of empty.example",
        ),
        (
            "u@broken.example",
            "deferred: 451 4.4.3 cannot look up the mail exchangers of broken.example",
        ),
        (
            "u@lame.example",
            "deferred: 451 4.4.3 cannot find the address of broken.example",
        ),
        (
            "u@dangling.example",
            "deferred: 451 4.4.4 cannot find the address of nowhere.example",
        ),
        ("u@[IPv6:zz]", "failed: 550 5.1.2 "),
    ];
    for (recipient, expected) in cases {
        rig.submit(mail("", &[recipient])).await;
        let end = rig.attempt().await;
        assert!(end.starts_with(&format!("0 {expected}")), "{recipient}: {end}");
        if expected.starts_with("delivered") {
            hop.message().await;
        }
    }
    assert_eq!(rig.rest().await.len(), 3);
}

#[tokio::test]
async fn a_recipient_that_one_exchanger_defers_is_tried_at_the_next() {
    let mut hop = Hop::start("[1] RCPT TO:<grey@ = 450 4.2.0 not here").await;
    let mut options = Options::new(String::new());
    options.dns = Some(
        testing::resolver(
            "two.example MX 10 one.example.
             two.example MX 20 other.example.
             one.example A 127.0.0.1
             other.example A 127.0.0.1",
        )
        .await,
    );
    options.mx_port = hop.address.port();
    let mut rig = Rig::start(options).await;
    rig.submit(mail("a@x.example", &["grey@two.example", "b@two.example"]))
        .await;
    let rcpt = |taken: hop::Taken| {
        taken
            .commands
            .into_iter()
            .filter(|command| command.starts_with("RCPT"))
            .collect::<Vec<_>>()
    };
    assert_eq!(rcpt(hop.message().await).len(), 2);
    assert_eq!(rcpt(hop.message().await), ["RCPT TO:<grey@two.example>"]);
    assert_eq!(rig.attempt().await, "0 delivered: 250 2.0.0 fine");
    assert_eq!(rig.attempt().await, "1 delivered: 250 2.0.0 fine");
    assert!(rig.rest().await.is_empty());
}

/// A certificate for `localhost`, what takes it, and what trusts it.
fn certificate() -> (TlsAcceptor, ClientTls) {
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).expect("a certificate");
    let der = made.cert.der().clone();
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(made.signing_key.serialize_der()));
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let server = rustls::ServerConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth()
        .with_single_cert(vec![der.clone()], key)
        .expect("a good pair");
    let mut roots = rustls::RootCertStore::empty();
    roots.add(der).expect("a good certificate");
    let verifier = rustls::client::WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider)
        .build()
        .expect("a verifier");
    (
        TlsAcceptor::from(Arc::new(server)),
        ClientTls::with_verifier(Some(verifier)).expect("a configuration"),
    )
}

#[tokio::test]
async fn tls_as_the_route_demands_it() {
    const OFFERED: &str = "EHLO = 250-hop|250 STARTTLS\nSTARTTLS = 220 go on";
    const NOT_OFFERED: &str = "EHLO = 250 hop";
    let (acceptor, trusting) = certificate();
    let stranger = certificate().1;
    struct Case<'a> {
        mode: &'a str,
        script: &'static str,
        server: bool,
        trusts: &'a ClientTls,
        host: &'a str,
        expected: Result<bool, &'a str>,
    }
    let case = |mode, script, server, expected| Case {
        mode,
        script,
        server,
        trusts: &trusting,
        host: "localhost",
        expected,
    };
    let cases = [
        case("opportunistic", OFFERED, true, Ok(true)),
        case("opportunistic", NOT_OFFERED, true, Ok(false)),
        // It offers STARTTLS and drops the handshake.
        case("opportunistic", OFFERED, false, Ok(false)),
        case("none", OFFERED, true, Ok(false)),
        case("required", OFFERED, true, Ok(true)),
        case("required", NOT_OFFERED, true, Err("454 4.7.4")),
        case("required", OFFERED, false, Err("454 4.7.5")),
        case("verify", OFFERED, true, Ok(true)),
        Case {
            trusts: &stranger,
            ..case("verify", OFFERED, true, Err("454 4.7.5"))
        },
        Case {
            host: "127.0.0.1",
            ..case("verify", OFFERED, true, Err("454 4.7.5"))
        },
        Case {
            trusts: &stranger,
            ..case("required", OFFERED, true, Ok(true))
        },
    ];
    for (index, case) in cases.into_iter().enumerate() {
        let mut hop = Hop::with_tls(case.script, case.server.then(|| acceptor.clone())).await;
        let config = format!(
            "[delivery]\nnext_hop = \"smtp://{}:{}\"\ntls = \"{}\"\n",
            case.host,
            hop.address.port(),
            case.mode
        );
        let mut options = Options::new(config);
        options.tls = Some(case.trusts.clone());
        options.dns = Some(testing::resolver("localhost A 127.0.0.1").await);
        let mut rig = Rig::start(options).await;
        rig.submit(mail("a@x.example", &["b@y.example"])).await;
        let end = rig.attempt().await;
        match case.expected {
            Ok(tls) => {
                assert_eq!(end, "0 delivered: 250 2.0.0 fine", "case {index}");
                assert_eq!(hop.message().await.tls, tls, "case {index}");
            }
            Err(code) => {
                assert!(end.starts_with(&format!("0 deferred: {code}")), "case {index}: {end}");
                assert!(hop.nothing_more());
            }
        }
    }
}

#[tokio::test]
async fn a_password_is_sent_and_a_refusal_defers() {
    let mut hop = Hop::start(
        "EHLO = 250-hop|250 AUTH LOGIN PLAIN
         AUTH PLAIN AHVzZXIAc2VjcmV0 = 235 2.7.0 welcome",
    )
    .await;
    let login = "username = \"user\"\npassword_file = \"secret\"\n";
    let rig = Rig::start(Options::to(&hop).and(login)).await;
    rig.submit(mail("a@x.example", &["b@y.example"])).await;
    assert_eq!(hop.message().await.commands[1], "AUTH PLAIN AHVzZXIAc2VjcmV0");
    assert!(rig.rest().await.is_empty());

    let strict = Hop::start("EHLO = 250-hop|250 AUTH PLAIN\nAUTH = 535 5.7.8 wrong").await;
    let mut rig = Rig::start(Options::to(&strict).and(login)).await;
    rig.submit(mail("a@x.example", &["b@y.example"])).await;
    let end = rig.attempt().await;
    assert!(
        end.contains("deferred: 454 4.7.0") && end.ends_with("535 5.7.8 wrong"),
        "{end}"
    );
}
