//! Mail that the relay signs is what others verify: python3-dkim and OpenDKIM, and another relay with `sender-auth`. Says aloud what it skips when a
//! program is missing; in CI nothing is.

mod support;

use std::path::{Path, PathBuf};
use std::process::Command;

use base64::Engine as _;
use support::dns::{Zone, serve};
use support::servers::{Nsd, run, script};
use support::sink::Sink;
use support::{Relay, Setup, peer, plugin};

const PASSWORD: &str = "correct horse";

/// A private key in a file, and the record of its public one.
struct Key {
    file: PathBuf,
    record: String,
}

impl Key {
    fn rsa(folder: &Path, name: &str) -> Key {
        let arguments = ["-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048"];
        let (file, public) = Key::make(folder, name, &arguments);
        let record = format!("v=DKIM1; k=rsa; p={}", base64(&public));
        Key { file, record }
    }

    fn ed25519(folder: &Path, name: &str) -> Key {
        let (file, public) = Key::make(folder, name, &["-algorithm", "ED25519"]);
        // RFC 8463 §4: the key alone, without the structure around it.
        let record = format!("v=DKIM1; k=ed25519; p={}", base64(&public[public.len() - 32..]));
        Key { file, record }
    }

    fn make(folder: &Path, name: &str, arguments: &[&str]) -> (PathBuf, Vec<u8>) {
        use std::os::unix::fs::PermissionsExt as _;
        let file = folder.join(name);
        run(Command::new("openssl")
            .arg("genpkey")
            .args(arguments)
            .arg("-out")
            .arg(&file));
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).expect("its mode");
        let der = folder.join("public.der");
        run(Command::new("openssl")
            .args(["pkey", "-pubout", "-outform", "DER", "-in"])
            .arg(&file)
            .arg("-out")
            .arg(&der));
        (file, std::fs::read(der).expect("the public key"))
    }
}

fn base64(bytes: &[u8]) -> String {
    base64::engine::general_purpose::STANDARD.encode(bytes)
}

/// A relay for submission with these keys of `ours.test`, and `dkim-sign` configured so.
fn signing(keys: &[(&str, &Key)], next_hop: &str, config: &str) -> Setup {
    let mut tables = String::new();
    for (selector, key) in keys {
        let file = key.file.display();
        tables += &format!("[[dkim]]\ndomain = \"ours.test\"\nselector = \"{selector}\"\nkey = \"{file}\"\n");
    }
    Setup::new()
        .top("trusted_networks = [\"127.0.0.0/8\"]\n")
        .listener("mx", "tls = \"none\"")
        .listener(
            "submission",
            "tls = \"none\"\nauth = \"required\"\nallow_plaintext_auth = true\n",
        )
        .user("alice", PASSWORD)
        .delivery(&format!("next_hop = \"{next_hop}\"\n{tables}"))
        .auth_relay("")
        .plugin(
            "dkim-sign",
            &plugin("dkim-sign"),
            "\"sign\", \"read-message\"",
            &format!("[plugin.config]\n{config}"),
        )
}

/// Sends a message as alice; the reply.
fn submit(relay: &Relay, content: &str) -> String {
    let mut client = relay.connect("submission");
    client.ehlo();
    client.auth_plain("alice", PASSWORD, "235");
    client.send("alice@ours.test", &["bob@far.test"], content)
}

/// What python3-dkim says of each signature.
fn verified(nsd: &Nsd, folder: &Path, message: &[u8]) -> Vec<String> {
    let file = folder.join("message");
    std::fs::write(&file, message).expect("a file");
    let said = run(Command::new(script("dkim_verify.py"))
        .arg(nsd.address().port().to_string())
        .arg(&file));
    said.lines().map(str::to_owned).collect()
}

/// What OpenDKIM says of a message.
fn opendkim(folder: &Path, record: &str, message: &[u8]) -> String {
    let write = |name: &str, text: &[u8]| {
        let path = folder.join(name);
        std::fs::write(&path, text).expect("a file");
        path
    };
    let file = write("message", message);
    let keys = write("keys", format!("rsa._domainkey.ours.test {record}\n").as_bytes());
    let text = format!("Mode v\nSyslog no\nTestPublicKeys {}\n", keys.display());
    let conf = write("opendkim.conf", text.as_bytes());
    let output = Command::new("opendkim")
        .arg("-x")
        .arg(conf)
        .arg("-t")
        .arg(file)
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .output()
        .expect("opendkim");
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

fn letter(body: &str) -> String {
    format!(
        "From: Alice <alice@ours.test>\r\nTo: bob@far.test\r\nSubject: hello\r\nDate: Wed, 25 Nov 2026 10:00:00 +0000\r\n\
         Message-ID: <1@ours.test>\r\nMIME-Version: 1.0\r\nContent-Type: text/plain; charset=utf-8\r\n\r\n{body}"
    )
}

const BOTH: [&str; 2] = [
    "ok d=ours.test s=rsa a=rsa-sha256",
    "ok d=ours.test s=ed a=ed25519-sha256",
];

#[test]
fn others_verify_what_we_sign() {
    if !peer("dkimverify") || !peer("opendkim") || !peer("openssl") {
        return;
    }
    let folder = tempfile::tempdir().expect("a folder for keys");
    let (rsa, ed) = (
        Key::rsa(folder.path(), "rsa.pem"),
        Key::ed25519(folder.path(), "ed.pem"),
    );
    let zone = Zone::new("ours.test")
        .txt("rsa._domainkey", &rsa.record)
        .txt("ed._domainkey", &ed.record)
        .txt("_dmarc", "v=DMARC1; p=reject");
    let Some(nsd) = serve(&[zone]) else { return };
    let sink = Sink::start();
    // The next relay is another one of ours, which takes nothing that its checks refuse.
    let next = Setup::new()
        .top(&format!(
            "relay_domains = [\"far.test\"]\n[dns]\nservers = [\"{}\"]",
            nsd.address()
        ))
        .next_hop(&sink.next_hop())
        .plugin(
            "sender-auth",
            &plugin("sender-auth"),
            "\"authentication\", \"read-message\", \"edit-message\"",
            "[plugin.config]\ndmarc = \"enforce\"",
        )
        .start();
    let next_hop = format!("smtp://{}", next.address("mx"));
    let relay = signing(&[("rsa", &rsa), ("ed", &ed)], &next_hop, "")
        // Its fields are written before the signature is made.
        .plugin(
            "spam-scan",
            &plugin("spam-scan"),
            "\"read-message\", \"edit-message\"",
            "[plugin.config]\nalways_score = true",
        )
        .start();
    let bodies = [
        "Hello,\r\n  there.",
        "",
        "\r\n\r\n",
        ".\r\n..\r\n.leading dots\r\n",
        "trailing blanks \t \r\n \t\r\n\r\n\r\n\r\n",
        "8 bit: \u{fc}\u{e4}\u{f6}",
        // In a file, and edited there.
        &"a line of a large message \t with blanks  \r\n\r\n".repeat(20_000),
    ];
    for (number, body) in bodies.iter().enumerate() {
        let reply = submit(&relay, &letter(body));
        assert!(reply.starts_with("250"), "{reply}");
        let message = &sink.wait_for(number + 1)[number].content;
        let text = String::from_utf8_lossy(message);
        assert_eq!(verified(&nsd, folder.path(), message), BOTH, "{body:.80}\n{text:.2000}");
        let said = opendkim(folder.path(), &rsa.record, message);
        assert!(
            said.contains("verification (s=rsa, d=ours.test, 2048-bit key) succeeded"),
            "{said}"
        );
        let results = text.replace("\r\n\t", " ");
        for part in [
            "dkim=pass (selector rsa) header.d=ours.test",
            "dkim=pass (selector ed) header.d=ours.test",
            "dmarc=pass",
        ] {
            assert!(results.contains(part), "{part} is not in {results:.2000}");
        }
    }

    // What is to be published is what is published here.
    let records = relay.command(&["dkim", "records"]);
    for (name, key) in [("rsa", &rsa), ("ed", &ed)] {
        let line = format!("{name}._domainkey.ours.test. TXT \"{}\"\n", key.record);
        assert!(
            records.replace("\" \"", "").contains(&line),
            "{line} is not in {records}"
        );
    }

    // What was signed cannot be changed, and nothing that readers are shown can be added.
    let message = String::from_utf8(sink.all()[0].content.clone()).expect("ASCII");
    for (what, changed) in [
        ("the body", message.replace("there.", "here.")),
        ("the subject", message.replace("Subject: hello", "Subject: hallo")),
        (
            "a second From",
            message.replacen("\r\nFrom:", "\r\nFrom: boss@ours.test\r\nFrom:", 1),
        ),
        (
            "a second subject",
            message.replacen("\r\nFrom:", "\r\nSubject: other\r\nFrom:", 1),
        ),
        (
            "a second From below",
            message.replacen("\r\nMIME-Version:", "\r\nFrom: boss@ours.test\r\nMIME-Version:", 1),
        ),
        (
            "a Reply-To",
            message.replacen("\r\nFrom:", "\r\nReply-To: boss@ours.test\r\nFrom:", 1),
        ),
        (
            "an encoding",
            message.replacen("\r\nFrom:", "\r\nContent-Transfer-Encoding: base64\r\nFrom:", 1),
        ),
    ] {
        assert_ne!(changed, message);
        for line in verified(&nsd, folder.path(), changed.as_bytes()) {
            assert!(line.starts_with("bad"), "{what}: {line}");
        }
    }
    // Who passes it on may add what is about the passing on.
    let listed = message.replacen(
        "\r\nFrom:",
        "\r\nList-ID: <list.far.test>\r\nSender: list@far.test\r\nFrom:",
        1,
    );
    assert_eq!(verified(&nsd, folder.path(), listed.as_bytes()), BOTH);
}

#[test]
fn only_our_own_mail_is_signed() {
    if !peer("openssl") {
        return;
    }
    let folder = tempfile::tempdir().expect("a folder for keys");
    let ed = Key::ed25519(folder.path(), "ed.pem");
    let sink = Sink::start();
    let relay = signing(&[("ed", &ed)], &sink.next_hop(), "trusted_networks = false").start();
    // A stranger, to us, under our name.
    let mut stranger = relay.connect("mx");
    stranger.ehlo();
    let reply = stranger.send("alice@ours.test", &["bob@ours.test"], &letter("hello"));
    assert!(reply.starts_with("250"), "{reply}");
    // A user, under another's.
    let reply = submit(&relay, &letter("hello").replace("alice@ours.test", "boss@far.test"));
    assert!(reply.starts_with("250"), "{reply}");
    let reply = submit(&relay, &letter("hello"));
    assert!(reply.starts_with("250"), "{reply}");
    let signatures: Vec<usize> = sink
        .wait_for(3)
        .iter()
        .map(|message| {
            String::from_utf8_lossy(&message.content)
                .matches("DKIM-Signature:")
                .count()
        })
        .collect();
    assert_eq!(signatures.iter().sum::<usize>(), 1, "{signatures:?}");
}

#[test]
fn a_key_that_changes_is_read_again_and_a_bad_one_is_named() {
    if !peer("dkimverify") || !peer("openssl") {
        return;
    }
    let folder = tempfile::tempdir().expect("a folder for keys");
    let (old, new) = (
        Key::ed25519(folder.path(), "ed.pem"),
        Key::ed25519(folder.path(), "new.pem"),
    );
    let Some(nsd) = serve(&[Zone::new("ours.test").txt("ed._domainkey", &old.record)]) else {
        return;
    };
    let sink = Sink::start();
    let relay = signing(&[("ed", &old)], &sink.next_hop(), "").start();
    let is_old = |count: usize| {
        assert!(submit(&relay, &letter("hello")).starts_with("250"));
        let message = &sink.wait_for(count)[count - 1].content;
        verified(&nsd, folder.path(), message)[0].starts_with("ok")
    };
    assert!(is_old(1));
    let name = old.file.display().to_string();
    let replace = |text: &[u8]| {
        let part = folder.path().join("part");
        std::fs::write(&part, text).expect("a file");
        std::fs::rename(&part, &old.file).expect("in its place");
    };
    replace(b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n");
    relay.logged(&[&format!(
        "{name}:1: the private key cannot be used: RSA of 2048 to 4096 bits and Ed25519 can"
    )]);
    // It came with the usual mode of new files.
    relay.logged(&["a secret that everybody can read: chmod 600", &name]);
    assert!(is_old(2));
    let said = relay.fails(&["check"]);
    assert!(
        said.contains(&format!("{name}:1: the private key cannot be used")),
        "{said}"
    );
    replace(&std::fs::read(&new.file).expect("the new key"));
    let mut count = 2;
    support::until("it signs with the new key", || {
        count += 1;
        !is_old(count)
    });
}

#[test]
fn a_selector_without_a_key_fails_the_answer() {
    if !peer("openssl") {
        return;
    }
    let folder = tempfile::tempdir().expect("a folder for keys");
    let ed = Key::ed25519(folder.path(), "ed.pem");
    let setup = signing(
        &[("ed", &ed)],
        "discard:",
        "[plugin.config.domains]\n\"ours.test\" = [\"typo\"]",
    );
    let relay = setup.start();
    let reply = submit(&relay, &letter("hello"));
    assert!(reply.starts_with("451 4.3.0"), "{reply}");
    relay.logged(&[
        "dkim-sign",
        "no [[dkim]] of ours.test has the selector \\\"typo\\\"; there are: ed",
    ]);
}

#[test]
fn a_configuration_with_mistakes_is_refused_with_file_and_line() {
    let folder = tempfile::tempdir().expect("a folder");
    let config = folder.path().join("gatepost.toml");
    let text = "hostname = \"relay.test\"\n[[listener]]\nname = \"mx\"\naddress = \"127.0.0.1:0\"\n\
                [[dkim]]\ndomain = \"ours.test\"\nselector = \"s1\"\nkey = \"s1.pem\"\n\
                [[dkim]]\ndomain = \"OURS.test\"\nselector = \"S1\"\nkey = \"s1.pem\"\n\
                [[dkim]]\ndomain = \"ours.test\"\nselektor = \"s2\"\n";
    std::fs::write(&config, text).expect("a file");
    let output = support::check(&config);
    let said = String::from_utf8_lossy(&output.stderr);
    for part in [
        "gatepost.toml:11: \"selector\" in [[dkim]]: is already that of the key in line 5",
        "gatepost.toml:15: ",
        "selektor",
        "gatepost.toml:13: [[dkim]] needs \"key\"",
    ] {
        assert!(said.contains(part), "{part} is not in {said}");
    }
}
