//! Writes what the clients of the dialog files send to `corpus/session`, one file a case.

#[allow(dead_code)] // Dialogs set no other flags.
mod layout;
#[allow(dead_code)] // Playing is for the target.
#[path = "../tests/support/mod.rs"]
mod support;

use std::fs;
use std::io;
use std::path::Path;

use support::Act;

fn main() -> io::Result<()> {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let corpus = here.join("corpus/session");
    fs::create_dir_all(&corpus)?;
    let mut number = 0;
    for entry in fs::read_dir(here.join("../tests/dialogs"))? {
        let path = entry?.path();
        for case in support::parse(&path.display().to_string(), &fs::read_to_string(&path)?) {
            let mut flags = 0;
            let config = &case.config;
            for (on, flag) in [
                (config.starttls, layout::STARTTLS),
                (config.allow_plaintext_auth, layout::PLAINTEXT_AUTH),
                (config.auth_required, layout::AUTH_REQUIRED),
                (config.tls_required, layout::TLS_REQUIRED),
            ] {
                flags |= if on { flag } else { 0 };
            }
            let mut seed = vec![flags];
            if case.hello {
                seed.extend_from_slice(b"EHLO client.test\r\n");
            }
            for turn in &case.turns {
                if let Act::Send { bytes, .. } = &turn.act {
                    seed.push(layout::SEPARATOR);
                    seed.extend_from_slice(bytes);
                }
            }
            number += 1;
            fs::write(corpus.join(format!("dialog-{number:03}")), seed)?;
        }
    }
    println!("{number} seeds in {}", corpus.display());
    Ok(())
}
