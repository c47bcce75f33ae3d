//! The world of a policy whose language's tools read WIT: written for a new project, and completed with the interface for a build.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use anyhow::Context;

use super::INTERFACE;
use super::files::copy;

const VERSION: &str = "@0.1.0";

/// What a world says for these hooks (names of [`super::hooks`]): it imports what their arguments and answers are made of, and exports them.
pub fn world(hooks: &[&str]) -> String {
    let has = |of: &[&str]| hooks.iter().any(|hook| of.contains(hook));
    let imports = [
        ("types", true),
        ("login", has(&["on-auth"])),
        ("messages", has(&["on-message"])),
        ("queue", has(&["on-queued", "on-route", "on-delivery"])),
    ];
    let imports = imports
        .into_iter()
        .filter(|(_, needed)| *needed)
        .map(|(interface, _)| ("import", interface));
    let exports = hooks.iter().map(|hook| ("export", *hook));
    let lines: Vec<String> = imports
        .chain(exports)
        .map(|(way, interface)| format!("    {way} gatepost:policy/{interface}{VERSION};"))
        .collect();
    lines.join("\n")
}

/// Leaves the project's world and the interface of this build in `build/wit` of the project, and says where that is.
pub fn prepare(folder: &Path) -> anyhow::Result<PathBuf> {
    let world = folder.join("wit/world.wit");
    let text = fs::read(&world)
        .with_context(|| format!("{}: it says what the policy imports and exports", world.display()))?;
    let wit = folder.join("build/wit");
    write_all(&wit, &text).with_context(|| wit.display().to_string())?;
    Ok(wit)
}

fn write_all(wit: &Path, world: &[u8]) -> io::Result<()> {
    // What an earlier build left may be of another interface.
    match fs::remove_dir_all(wit) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    copy(&INTERFACE, &wit.join("deps/gatepost-policy"), &str::to_owned)?;
    fs::write(wit.join("world.wit"), world)
}
