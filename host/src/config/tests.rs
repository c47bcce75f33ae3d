//! The configuration as its users meet it: what a file means, and what exactly is said about a bad one.

use std::path::Path;

use super::super::values::{parse_duration, parse_size};
use super::*;
use crate::config::ConfigErrors;

/// Enough of a file to be accepted; tests add to it.
const MINIMAL: &str = "[[listener]]\nname = \"mx\"\naddress = \"127.0.0.1:25\"\n";

fn parse(text: &str) -> Result<Config, ConfigErrors> {
    Config::parse(text, Path::new("/etc/gatepost/gatepost.toml"))
}

fn good(text: &str) -> Config {
    parse(text).unwrap_or_else(|errors| panic!("{text}\n{errors}"))
}

/// The errors about a text, without the file's name.
fn errors(text: &str) -> Vec<String> {
    let errors = parse(text).expect_err(text).to_string();
    errors
        .lines()
        .map(|line| {
            line.strip_prefix("/etc/gatepost/gatepost.toml:")
                .expect(line)
                .to_owned()
        })
        .collect()
}

#[test]
fn what_is_seldom_meant_is_warned_of() {
    let plugin = "\n[[plugin]]\nname = \"rbl\"\nfile = \"rbl.wasm\"\n";
    let warnings = |networks: &str| {
        let top = format!("relay_domains = [\"ours.test\"]\ntrusted_networks = [{networks}]\n");
        good(&format!("{top}{MINIMAL}{plugin}")).warnings()
    };
    assert!(warnings("\"10.0.0.0/8\", \"127.0.0.0/8\", \"192.0.2.0/24\", \"fd00::/8\", \"2001:db8::/32\"").is_empty());
    for wide in ["0.0.0.0/0", "0.0.0.0/1", "8.0.0.0/8", "::/0", "2000::/3"] {
        let [warning] = &warnings(&format!("\"{wide}\""))[..] else {
            panic!("{wide}")
        };
        assert!(
            warning.starts_with(&format!("trusted_networks: {wide} is wider")),
            "{warning}"
        );
    }
    assert_eq!(good(MINIMAL).warnings().len(), 2, "no domain, no plugin");
}

#[test]
fn the_socket_is_found_in_a_file_with_errors() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("gatepost.toml");
    let socket = |text: &str| {
        std::fs::write(&file, text).unwrap();
        Config::admin_socket_despite_errors(&file).unwrap()
    };
    for (text, expected) in [
        (
            "state_dir = \"/var/lib/gatepost\"\nhostname = 7\n",
            "/var/lib/gatepost/admin.sock",
        ),
        (
            "hostname = \"\n  state_dir = 'here' # so\n[[listener\n",
            "here/admin.sock",
        ),
        ("[x]\nstate_dir = \"/not/this\"\n", "var/gatepost/admin.sock"),
        ("state_dir = 7\n\u{0}", "var/gatepost/admin.sock"),
    ] {
        assert_eq!(socket(text), folder.path().join(expected), "{text}");
    }
    assert!(Config::admin_socket_despite_errors(&folder.path().join("none.toml")).is_none());
}

#[test]
fn the_contract_is_understood() {
    let config = good(
        r#"
        hostname  = "Relay.Example.Test."
        state_dir = "var/gatepost"
        user      = "gatepost"
        relay_domains    = ["Example.TEST.", "bücher.test"]
        trusted_networks = ["192.0.2.0/24", "2001:db8::1"]

        [limits]
        message_size = "10MiB"

        [[listener]]
        name = "submission"
        address = "0.0.0.0:587"
        tls  = "starttls"
        auth = "required"
        proxy_from = ["10.0.0.0/8"]

        [tls]
        certificate = "cert.pem"
        key = "/keys/key.pem"
        [[tls.additional]]
        certificate = "other.pem"
        key = "other.key"

        [auth]
        users = "users"

        [delivery]
        next_hop = "smtp://192.0.2.7:25"
        retry = ["1m", "1h30m"]
        delay_notice = "off"
        connections = 3

        [[route]]
        name = "inside"
        domains  = ["Example.Test"]
        next_hop = "smtps://mail.inside.test"
        username = "relay"
        password_file = "password"

        [dns]
        servers = ["127.0.0.1:5353", "192.0.2.53", "[2001:db8::53]:5353", "2001:db8::53"]

        [admin]
        address = "127.0.0.1:8025"

        [[plugin]]
        name = "auth-relay"
        file = "plugins/auth-relay.wasm"
        grants = ["credentials", "relay", "endpoint"]
        on_failure = "defer"
        [plugin.budget]
        cpu_ms = 50
        memory_mib = 16
        [plugin.endpoints]
        clamd = "unix:/run/clamav/clamd.ctl"
        api = "tls://[::1]:443"
        [plugin.config]
        allow_trusted_networks = true
        weights = [1, 2.5, { since = 2026-01-01 }]
        "#,
    );
    assert_eq!(config.hostname, "relay.example.test");
    assert_eq!(config.state_dir, Path::new("/etc/gatepost/var/gatepost"));
    assert_eq!(
        config.admin_socket(),
        Path::new("/etc/gatepost/var/gatepost/admin.sock")
    );
    assert_eq!(
        Vec::from_iter(&config.relay_domains),
        ["example.test", "xn--bcher-kva.test"]
    );
    assert_eq!(
        config
            .trusted_networks
            .iter()
            .map(ToString::to_string)
            .collect::<Vec<_>>(),
        ["192.0.2.0/24", "2001:db8::1/128"]
    );
    assert_eq!(
        (config.limits.message_size, config.limits.connections),
        (10 << 20, 10_000)
    );
    let tls = config.tls.as_ref().unwrap();
    assert_eq!(
        tls.certificates()
            .map(|pair| pair.key.to_str().unwrap())
            .collect::<Vec<_>>(),
        ["/keys/key.pem", "/etc/gatepost/other.key"]
    );
    assert_eq!(
        config.delivery.retry,
        [Duration::from_secs(60), Duration::from_secs(5400)]
    );
    assert_eq!(
        (config.delivery.delay_notice, config.delivery.bounce_hostname.as_str()),
        (None, "relay.example.test")
    );

    let inside = config.route_for("example.test");
    let hop = NextHop::Smtp {
        host: "mail.inside.test".into(),
        port: 465,
        implicit_tls: true,
    };
    assert_eq!(
        (inside.name.as_str(), &inside.next_hop, inside.tls),
        ("inside", &Some(hop), TlsMode::Verify)
    );
    assert_eq!(inside.connections, 3, "taken from [delivery]");
    assert_eq!(config.route_for("elsewhere.test").name, DEFAULT_ROUTE);

    let servers: Vec<_> = config.dns.servers.iter().map(ToString::to_string).collect();
    assert_eq!(
        servers,
        [
            "127.0.0.1:5353",
            "192.0.2.53:53",
            "[2001:db8::53]:5353",
            "[2001:db8::53]:53"
        ]
    );

    let plugin = &config.plugins[0];
    assert_eq!(plugin.file, Path::new("/etc/gatepost/plugins/auth-relay.wasm"));
    assert_eq!(plugin.budget.cpu, Duration::from_millis(50));
    assert_eq!(plugin.max_memory_bytes, 1 << 30);
    assert_eq!(Plugin::max_memory_bytes(64, 64 << 20), 1 << 30);
    assert_eq!(Plugin::max_memory_bytes(2, 2 << 30), 2 << 30);
    assert_eq!(
        (plugin.budget.memory_bytes, plugin.budget.wall),
        (16 << 20, Budget::WALL)
    );
    assert_eq!(
        plugin.endpoints["api"],
        Endpoint::Tls {
            host: "::1".into(),
            port: 443
        }
    );
    assert_eq!(
        plugin.config,
        serde_json::json!({ "allow_trusted_networks": true, "weights": [1, 2.5, { "since": "2026-01-01" }] })
    );
}

#[test]
fn what_is_absent_has_its_default() {
    let config = good(MINIMAL);
    assert_eq!(config.state_dir, Path::new("/etc/gatepost/var/gatepost"));
    assert!(!config.hostname.is_empty());
    assert_eq!(
        (config.listeners[0].tls, config.listeners[0].auth),
        (ListenerTls::None, AuthOffer::Off)
    );
    assert_eq!(config.limits.message_size, 25 << 20);
    assert_eq!(config.delivery.default.next_hop, None);
    assert_eq!(config.delivery.expire_after, Duration::from_secs(5 * 24 * 3600));
    assert_eq!(config.admin, Admin::default());
    let with_tls = good(&format!("{MINIMAL}[tls]\ncertificate = \"c\"\nkey = \"k\""));
    assert_eq!(with_tls.listeners[0].tls, ListenerTls::Starttls);
    let plugin = &good(&format!("{MINIMAL}[[plugin]]\nname = \"p\"\nfile = \"p.wasm\"")).plugins[0];
    assert_eq!(
        (plugin.grants.len(), plugin.on_failure, plugin.instances),
        (0, OnFailure::Defer, Instances::Pooled)
    );
    assert_eq!(plugin.config, serde_json::json!({}));
}

#[test]
fn unknown_keys_and_bad_values() {
    // Each line alone, behind the minimal file, so it is line 5 unless it says otherwise.
    for (line, expected) in [
        (
            "[limit]",
            "5: unknown key \"limit\" in the top level; did you mean \"limits\"?",
        ),
        (
            "[limits]\nconections = 5",
            "6: unknown key \"conections\" in [limits]; did you mean \"connections\"?",
        ),
        (
            "[limits]\nrelay_domains = []",
            "6: unknown key \"relay_domains\" in [limits]; it belongs to the top level, above the first [table]",
        ),
        (
            "[limits]\nnext_hop = \"discard:\"",
            "6: unknown key \"next_hop\" in [limits]; it belongs to [delivery]",
        ),
        ("[auth]\nzzz = 1", "6: unknown key \"zzz\" in [auth]; known are users"),
        (
            "[tls]\ncert = \"c\"\nkey = \"k\"\ncertificate = \"c\"",
            "6: unknown key \"cert\" in [tls]; did you mean \"certificate\"?",
        ),
        ("[tls]\nkey = \"k\"", "5: [tls] needs \"certificate\""),
        (
            "[limits]\nconnections = 0",
            "6: \"connections\" in [limits]: expected a whole number from 1 to 100000000, found 0",
        ),
        (
            "[limits]\nconnections = \"5\"",
            "6: \"connections\" in [limits]: expected a whole number from 1 to 100000000, found a string",
        ),
        (
            "[limits]\nmessage_size = \"25 megs\"",
            "6: \"message_size\" in [limits]: \"25 megs\" is not a size: write \"25MiB\", \"64KiB\" or a number of bytes",
        ),
        (
            "[limits]\nmessage_size = 1000",
            "6: \"message_size\" in [limits]: at least 65536 bytes (RFC 5321 §4.5.3.1.7)",
        ),
        (
            "[limits]\nidle_timeout = 300",
            "6: \"idle_timeout\" in [limits]: expected a duration such as \"30s\" or \"5m\", found a number",
        ),
        (
            "[limits]\nidle_timeout = \"5 minutes\"",
            "6: \"idle_timeout\" in [limits]: \"5 minutes\" is not a duration: write \"30s\", \"5m\", \"4h\" or \"5d\"",
        ),
        (
            "[delivery]\ntls = \"verified\"",
            "6: \"tls\" in [delivery]: \"verified\" is none of none, opportunistic, required, verify; did you mean \"verify\"?",
        ),
        (
            "[delivery]\nnext_hop = \"mail.test\"",
            "6: \"next_hop\" in [delivery]: \"mail.test\" is not a next hop: write \"smtp://host:25\", \"smtps://host:465\", \"maildir:PATH\" or \"discard:\"",
        ),
        (
            "[delivery]\nnext_hop = \"smtp://::1\"",
            "6: \"next_hop\" in [delivery]: write an IPv6 address in brackets: \"[::1]\"",
        ),
        (
            "[delivery]\nnext_hop = \"smtp://mail.test:x\"",
            "6: \"next_hop\" in [delivery]: \"x\" is not a port",
        ),
        (
            "[delivery]\nretry = []",
            "6: \"retry\" in [delivery]: needs at least one pause",
        ),
        (
            "[delivery]\nretry = [\n \"1m\",\n \"soon\"]",
            "8: \"retry\" in [delivery]: \"soon\" is not a duration: write \"30s\", \"5m\", \"4h\" or \"5d\"",
        ),
        (
            "[delivery.timeouts]\nconect = \"1s\"",
            "6: unknown key \"conect\" in [delivery.timeouts]; did you mean \"connect\"?",
        ),
        (
            "[dns]\nservers = [\"ns.test\"]",
            "6: \"servers\" in [dns]: \"ns.test\" is not an IP address such as \"192.0.2.53\", with a port if that is not 53",
        ),
        (
            "[admin]\ntoken_file = \"t\"",
            "6: \"token_file\" in [admin]: needs \"address\": it guards actions over HTTP",
        ),
        (
            "[log]\nlevel = \"verbose\"",
            "6: \"level\" in [log]: \"verbose\" is none of error, warn, info, debug, trace",
        ),
        (
            "[listeners]",
            "5: unknown key \"listeners\" in the top level; did you mean \"listener\"?",
        ),
        (
            "limits = 5",
            "4: unknown key \"limits\" in [[listener]] \"mx\"; it belongs to the top level, above the first [table]",
        ),
        ("[[plugin]]\nname = \"p\"", "5: [[plugin]] \"p\" needs \"file\""),
        ("[[plugin]]\nfile = \"p\"", "5: [[plugin]] needs \"name\""),
        (
            "[plugin]\nname = \"p\"",
            "5: \"plugin\" in the top level: there can be several, each begins with [[plugin]]",
        ),
        (
            "[[plugin]]\nname = \"p\"\nfile = \"f\"\ngrants = [\"rely\"]",
            "8: \"grants\" in [[plugin]] \"p\": \"rely\" is none of credentials, read-password, authenticate, relay, edit-envelope, read-message, edit-message, route, sign, state, dns, authentication, endpoint; did you mean \"relay\"?",
        ),
        (
            "[[plugin]]\nname = \"p\"\nfile = \"f\"\ngrants = [\"endpoint\"]",
            "8: \"grants\" in [[plugin]] \"p\": \"endpoint\" needs a table [plugin.endpoints] that names them",
        ),
        (
            "[[plugin]]\nname = \"p\"\nfile = \"f\"\n[plugin.endpoints]\na = \"tcp://x:1\"",
            "8: \"endpoints\" in [[plugin]] \"p\": needs \"endpoint\" among the grants",
        ),
        (
            "[[plugin]]\nname = \"p\"\nfile = \"f\"\ngrants = [\"endpoint\"]\n[plugin.endpoints]\na = \"tcp://x\"",
            "10: \"a\" in [plugin.endpoints] of [[plugin]] \"p\": a port is missing",
        ),
        (
            "[[plugin]]\nname = \"p\"\nfile = \"f\"\nmax_memory_mib = 63",
            "8: \"max_memory_mib\" in [[plugin]] \"p\": is less than one instance may have: memory_mib of [plugin.budget] is 64",
        ),
        (
            "[[plugin]]\nname = \"p\"\nfile = \"f\"\n[plugin.config]\na = [nan]",
            "9: \"a\" in [plugin.config] of [[plugin]] \"p\": nan has no form in JSON",
        ),
        (
            "[[plugin]]\nname = \"p/q\"\nfile = \"f\"",
            "6: \"name\" in [[plugin]] \"p/q\": a name has 1 to 64 letters, digits, \"-\", \"_\" and \".\"",
        ),
        (
            "[[plugin]]\nname = \"p\"\nfile = \"f\"\n[[plugin]]\nname = \"p\"\nfile = \"g\"",
            "9: \"name\" in [[plugin]] \"p\": is already the name of the one in line 5",
        ),
    ] {
        // One newline less for a key of the listener itself.
        let text = if line.starts_with('[') {
            format!("{MINIMAL}\n{line}\n")
        } else {
            format!("{MINIMAL}{line}\n")
        };
        assert_eq!(errors(&text), [expected], "{line}");
    }
}

#[test]
fn the_top_level() {
    for (line, expected) in [
        (
            "relay_domain = []",
            "1: unknown key \"relay_domain\" in the top level; did you mean \"relay_domains\"?",
        ),
        (
            "relay_domains = \"example.test\"",
            "1: \"relay_domains\" in the top level: expected a list, in [ ], found a string",
        ),
        (
            "relay_domains = [\"[192.0.2.1]\"]",
            "1: \"relay_domains\" in the top level: \"[192.0.2.1]\" is not a domain name",
        ),
        (
            "hostname = \"re lay\"",
            "1: \"hostname\" in the top level: \"re lay\" is not a domain name",
        ),
        (
            "hostname = \"\"",
            "1: \"hostname\" in the top level: \"\" is not a domain name",
        ),
        (
            "state = \"reddis://127.0.0.1:6379\"",
            "1: \"state\" in the top level: is no state server: write \"redis://host:6379\", \"rediss://host:6379\" or \"redis+unix:PATH\"",
        ),
        (
            "state = \"redis://relay:secret@192.0.2.1\"",
            "1: \"state\" in the top level: a password does not stand here: put it into a file, and name that in \"state_password_file\"",
        ),
        (
            "state = \"redis://192.0.2.1/mail\"",
            "1: \"state\" in the top level: \"mail\" is no number of a database, such as 0",
        ),
        (
            "state_password_file = \"password\"",
            "1: \"state_password_file\" in the top level: needs \"state\": it is that server's password",
        ),
        (
            "trusted_networks = [\"192.0.2.1/24\"]",
            "1: \"trusted_networks\" in the top level: \"192.0.2.1/24\" has bits beyond its prefix; did you mean \"192.0.2.0/24\"?",
        ),
        (
            "trusted_networks = [\"::ffff:192.0.2.0/120\"]",
            "1: \"trusted_networks\" in the top level: \"::ffff:192.0.2.0/120\" is IPv4 inside IPv6, and clients are told apart by IPv4: did you mean \"192.0.2.0/24\"?",
        ),
        (
            "trusted_networks = [\"here\"]",
            "1: \"trusted_networks\" in the top level: \"here\" is not a network such as \"192.0.2.0/24\" or \"2001:db8::/32\", or one address",
        ),
    ] {
        assert_eq!(errors(&format!("{line}\n{MINIMAL}")), [expected], "{line}");
    }
    assert_eq!(
        errors(""),
        ["1: the top level: there is no [[listener]], so nothing could arrive"]
    );
}

#[test]
fn listeners_and_routes_agree_with_the_rest() {
    let listener = |keys: &str| format!("[[listener]]\nname = \"a\"\naddress = \"127.0.0.1:25\"\n{keys}\n");
    let tls = "[tls]\ncertificate = \"c\"\nkey = \"k\"\n";
    let users = "[auth]\nusers = \"u\"\n";
    let route = |keys: &str| format!("{MINIMAL}[[route]]\nname = \"r\"\n{keys}\n");
    for (text, expected) in [
        (
            listener("tls = \"start\""),
            "4: \"tls\" in [[listener]] \"a\": \"start\" is none of none, starttls, implicit; did you mean \"starttls\"?",
        ),
        (
            listener("tls = \"implicit\""),
            "4: \"tls\" in [[listener]] \"a\": \"implicit\" needs a [tls] table with certificate and key",
        ),
        (
            listener("auth = \"required\"") + tls,
            "4: \"auth\" in [[listener]] \"a\": needs users in [auth], or a plugin with the grant \"authenticate\"",
        ),
        (
            listener("auth = \"optional\"") + users,
            "4: \"auth\" in [[listener]] \"a\": is never offered without TLS: set tls = \"starttls\", or allow_plaintext_auth = true",
        ),
        (
            listener("").replace(":25", ""),
            "3: \"address\" in [[listener]] \"a\": \"127.0.0.1\" is not an IP address and a port such as \"0.0.0.0:25\" or \"[::]:25\"",
        ),
        (
            listener("") + &listener("").replace(":25", ":26"),
            "6: \"name\" in [[listener]] \"a\": is already the name of the one in line 1",
        ),
        (
            listener("") + &listener("").replace("\"a\"", "\"b\""),
            "7: \"address\" in [[listener]] \"b\": 127.0.0.1:25 is also the address of \"a\"",
        ),
        (
            route("domains = [\"a.test\"]\n[[route]]\nname = \"s\"\ndomains = [\"A.test.\"]"),
            "9: \"domains\" in [[route]] \"s\": \"a.test\" already belongs to route \"r\"",
        ),
        (
            route("").replace("\"r\"", "\"default\""),
            "5: \"name\" in [[route]] \"default\": \"default\" is what [delivery] itself describes",
        ),
        (
            route("next_hop = \"smtp://a.test\"\nusername = \"u\""),
            "7: \"username\" in [[route]] \"r\": needs \"password_file\" beside it",
        ),
        (
            route("next_hop = \"smtp://a.test\"\npassword_file = \"u\""),
            "7: \"password_file\" in [[route]] \"r\": needs \"username\" beside it",
        ),
        (
            route("username = \"u\"\npassword_file = \"p\""),
            "6: \"username\" in [[route]] \"r\": needs \"next_hop\": a password is not for whatever server MX records name",
        ),
        (
            route("next_hop = \"discard:\"\nusername = \"u\"\npassword_file = \"p\""),
            "7: \"username\" in [[route]] \"r\": only means something where next_hop is smtp:// or smtps://",
        ),
        (
            route("next_hop = \"smtp://a.test\"\nusername = \"u\"\npassword_file = \"p\"\ntls = \"opportunistic\""),
            "9: \"tls\" in [[route]] \"r\": \"opportunistic\" would send the password in the clear: write \"verify\" or \"required\"",
        ),
        (
            route("next_hop = \"smtps://a.test\"\ntls = \"none\""),
            "7: \"tls\" in [[route]] \"r\": \"none\" contradicts smtps://",
        ),
    ] {
        assert_eq!(errors(&text), [expected], "{text}");
    }
    // And what is fine.
    for text in [
        listener("auth = \"required\"\nallow_plaintext_auth = true") + users,
        listener("auth = \"required\"") + tls + "[[plugin]]\nname = \"p\"\nfile = \"f\"\ngrants = [\"authenticate\"]\n",
        listener("").replace(":25", ":0") + &listener("").replace(":25", ":0").replace("\"a\"", "\"b\""),
        route("next_hop = \"smtp://127.0.0.1:2526\"\nusername = \"u\"\npassword_file = \"p\""),
        route("next_hop = \"smtp://[::1]\"\nusername = \"u\"\npassword_file = \"p\"\ntls = \"none\""),
    ] {
        good(&text);
    }
}

#[test]
fn several_errors_are_reported_together_in_the_order_of_the_file() {
    let text = "hostnam = \"x\"\n[limits]\nconnections = -1\n[[listener]]\naddress = 5\ncolour = \"red\"\n";
    assert_eq!(
        errors(text),
        [
            "1: unknown key \"hostnam\" in the top level; did you mean \"hostname\"?",
            "3: \"connections\" in [limits]: expected a whole number from 1 to 100000000, found -1",
            "4: [[listener]] needs \"name\"",
            "5: \"address\" in [[listener]]: expected an IP address and a port such as \"0.0.0.0:25\" or \"[::]:25\", found a number",
            "6: unknown key \"colour\" in [[listener]]; known are name, address, tls, auth, allow_plaintext_auth, proxy_from",
        ]
    );
    let syntax = errors("a = 1\na = 2\n[b\n");
    assert_eq!(syntax.len(), 2, "{syntax:?}");
    assert!(
        syntax[0].starts_with("2: ") && syntax[1].starts_with("3: "),
        "{syntax:?}"
    );
}

#[test]
fn a_file_that_cannot_be_read() {
    let missing = Config::load(Path::new("/nowhere/gatepost.toml"))
        .unwrap_err()
        .to_string();
    assert_eq!(
        missing,
        "/nowhere/gatepost.toml: cannot read: No such file or directory (os error 2)"
    );
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), b"hostname = \"a\"\n\xff").unwrap();
    let latin = Config::load(file.path()).unwrap_err().to_string();
    assert_eq!(latin, format!("{}:2: not UTF-8 text", file.path().display()));
}

#[test]
fn durations_and_sizes() {
    for (text, ms) in [
        ("250ms", Some(250)),
        ("30s", Some(30_000)),
        ("1h30m", Some(5_400_000)),
        ("5d", Some(432_000_000)),
        ("1w", Some(604_800_000)),
        ("", None),
        ("0s", None),
        ("s", None),
        ("5", None),
        ("5 s", None),
        ("-5s", None),
        ("5S", None),
        ("99999999999999999999s", None),
        ("9999999999999999w", None),
        ("11000d", None),
        ("é", None),
        ("5é", None),
    ] {
        assert_eq!(parse_duration(text).ok(), ms.map(Duration::from_millis), "{text:?}");
    }
    for (text, bytes) in [
        ("512", Some(512)),
        ("64KiB", Some(65_536)),
        ("25 MiB", Some(25 << 20)),
        ("10mb", Some(10_000_000)),
        ("0", None),
        ("", None),
        ("MiB", None),
        ("99999999999GiB", None),
        ("1.5MiB", None),
    ] {
        assert_eq!(parse_size(text).ok(), bytes, "{text:?}");
    }
}

/// The files in `examples/` are there to be copied.
#[test]
fn the_examples_are_good() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples");
    let mut seen = 0;
    for entry in std::fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display())) {
        let path = entry.expect("a readable folder").path();
        if path.extension().is_some_and(|extension| extension == "toml") {
            Config::load(&path).unwrap_or_else(|errors| panic!("{errors}"));
            seen += 1;
        }
    }
    assert!(seen > 0);
}

/// Asks each table of the reference what it knows, by a key that it cannot know.
#[test]
fn the_reference_has_every_key() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/reference.toml");
    let text = std::fs::read_to_string(&path).expect("the reference");
    let probed: String = text
        .lines()
        .map(
            |line| match line.starts_with('[') && !line.contains("endpoints]") && !line.contains("config]") {
                true => format!("{line}\nzzzzzz = 0\n"),
                false => format!("{line}\n"),
            },
        )
        .collect();
    let errors = errors(&format!("zzzzzz = 0\n{probed}"));
    assert_eq!(
        errors.len(),
        text.lines().filter(|line| line.starts_with('[')).count() + 1 - 2,
        "{errors:#?}"
    );
    for error in errors {
        let (_, known) = error.split_once("; known are ").unwrap_or_else(|| panic!("{error}"));
        for key in known.split(", ") {
            let is_key = |line: &str| {
                let line = line.trim_start_matches("# ");
                let shared = line.starts_with("username, password_file") && line.contains(key);
                let header = line.split(']').next().unwrap_or_default().trim_start_matches('[');
                let table = line.starts_with('[') && header.rsplit('.').next() == Some(key);
                shared || table || line.split('=').next().unwrap_or_default().trim() == key
            };
            assert!(text.lines().any(is_key), "{key}: {error}");
        }
    }
}

/// The defaults that the reference states are those that the code has.
#[test]
fn the_reference_states_the_defaults() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/reference.toml");
    let stated = Config::load(&path).expect("a good reference");
    let actual = good(&format!("{MINIMAL}[[plugin]]\nname = \"p\"\nfile = \"p.wasm\""));
    assert_eq!(stated.limits, actual.limits);
    assert_eq!(stated.delivery.timeouts, actual.delivery.timeouts);
    assert_eq!(stated.delivery.retry, actual.delivery.retry);
    assert_eq!(
        (
            stated.delivery.expire_after,
            stated.delivery.delay_notice,
            stated.delivery.idle_timeout
        ),
        (
            actual.delivery.expire_after,
            actual.delivery.delay_notice,
            actual.delivery.idle_timeout
        )
    );
    let default = |config: &Config| {
        let route = &config.delivery.default;
        (
            route.connections,
            route.messages_per_connection,
            config.delivery.connections_total,
        )
    };
    assert_eq!(default(&stated), default(&actual));
    assert_eq!(
        (stated.dns.timeout, stated.dns.attempts, stated.log),
        (actual.dns.timeout, actual.dns.attempts, actual.log)
    );
    let plugin = |config: &Config| {
        let plugin = &config.plugins[0];
        (
            plugin.budget,
            plugin.on_failure,
            plugin.always,
            plugin.instances,
            plugin.max_instances,
            plugin.max_memory_bytes,
            plugin.max_uses,
        )
    };
    assert_eq!(plugin(&stated), plugin(&actual));
}

#[test]
fn a_state_server_has_defaults_and_warns_where_others_may_listen() {
    // As written; as logs show it; the user; whether it is warned of.
    for (written, shown, user, warned) in [
        ("redis://127.0.0.1:6379", "redis://127.0.0.1:6379/0", None, false),
        ("redis://localhost", "redis://localhost:6379/0", None, false),
        (
            "redis://relay@[2001:db8::1]/3",
            "redis://[2001:db8::1]:6379/3",
            Some("relay"),
            true,
        ),
        (
            "rediss://State.Example.test:6380",
            "rediss://state.example.test:6380/0",
            None,
            false,
        ),
        (
            "redis+unix:run/redis.sock",
            "redis+unix:/etc/gatepost/run/redis.sock",
            None,
            false,
        ),
    ] {
        let text = format!("state = \"{written}\"\nstate_password_file = \"secret\"\n{MINIMAL}");
        let config = Config::parse(&text, Path::new("/etc/gatepost/gatepost.toml")).expect(written);
        let state = config.state.as_ref().expect(written);
        assert_eq!(state.to_string(), shown);
        assert_eq!(state.user.as_deref(), user, "{written}");
        assert_eq!(state.password_file.as_deref(), Some(Path::new("/etc/gatepost/secret")));
        let warnings = config.warnings();
        assert_eq!(
            warnings.iter().any(|warning| warning.contains("in the clear")),
            warned,
            "{warnings:?}"
        );
    }
}
