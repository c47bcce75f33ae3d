//! C: the bindings and the component are made in this process, and zig compiles.
//!
//! zig because one package brings a compiler, a linker and a C library for WebAssembly, in one version for everybody.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, bail};
use gatepost_plugin_build::{EncodeError, FileError, build_file};
use wit_bindgen_c::{Enabled, Opts};
use wit_bindgen_core::Files;
use wit_bindgen_core::wit_parser::{Resolve, WorldId};

use super::venv::{self, Program};
use super::{TEMPLATES, files, tool, wit};

const ZIG: Program = Program {
    in_path: "zig",
    in_package: "python-zig",
    package: "ziglang",
    version: "0.16.0",
    ask: "version",
};

const WORLD: &str = "policy";
/// What the generated files are called, and what their names of types begin with that belong to no interface.
const BINDINGS: &str = "gatepost";

/// A reactor, since a policy has no `main`; a stack as Rust's is, of which an instance holds all; no symbols, which hold names of this machine's folders.
const FLAGS: [&str; 9] = [
    "-target",
    "wasm32-wasi",
    "-mexec-model=reactor",
    "-Wl,-z,stack-size=1048576",
    "-std=gnu17",
    "-O2",
    "-s",
    "-Wall",
    "-Ibuild/bindings",
];

pub fn build(folder: &Path, component: &Path) -> anyhow::Result<()> {
    let wit = wit::prepare(folder)?;
    write_bindings(&wit, &folder.join("build/bindings"))?;
    let program = ZIG.find(folder).context("zig is not in PATH, so pip installs it")?;
    let module = folder.join("build/policy.module.wasm");
    eprintln!("building policy.c with zig {}", ZIG.version);
    let mut zig = Command::new(program);
    zig.current_dir(folder).arg("cc").args(FLAGS);
    zig.args(sources(folder, ".")?).args(sources(folder, "build/bindings")?);
    zig.arg("-o").arg(&module);
    tool::run(&mut zig, venv::INSTALL_PYTHON)?;
    match build_file(&module, component) {
        Err(FileError::Encode {
            source: EncodeError::ImportsWasi { function, .. },
            ..
        }) => bail!(
            "policy.c: it calls something of the C library that wants `{function}` of a system, and a policy has none: no files, printing, clock, \
             environment, exit or assert; the imports of the interface offer log, clock, random and others"
        ),
        other => other?,
    };
    Ok(())
}

/// Leaves what the policy's sources include in `into`: declarations made from the interface, and the files of `sdk/templates/c/lib`.
fn write_bindings(wit: &Path, into: &Path) -> anyhow::Result<()> {
    let mut interface = Resolve::default();
    let (package, _) = interface.push_dir(wit)?;
    let world = interface.select_world(&[package], Some(WORLD))?;
    let mut renamed = interface.clone();
    keep_apart(&mut renamed);
    // Of the interface as it is comes the object alone, in which the component finds its types.
    let object = generate(interface, world)?;
    let sources = generate(renamed, world)?;
    let is_object = |name: &str| name.ends_with(".o");
    let object = object.iter().filter(|(name, _)| is_object(name));
    let sources = sources.iter().filter(|(name, _)| !is_object(name));
    for (name, bytes) in object.chain(sources) {
        files::write(&into.join(name), bytes).with_context(|| into.display().to_string())?;
    }
    let library = TEMPLATES.get_dir("c/lib").context("this build has no template c/lib")?;
    files::copy(library, into, &str::to_owned).with_context(|| into.display().to_string())
}

fn generate(mut interface: Resolve, world: WorldId) -> anyhow::Result<Files> {
    let options = Opts {
        rename: short_names(&interface, world),
        rename_world: Some(BINDINGS.to_owned()),
        autodrop_borrows: Enabled::Yes,
        ..Opts::default()
    };
    let mut files = Files::default();
    options.build().generate(&mut interface, world, &mut files)?;
    Ok(files)
}

/// Calls `list-query` `list-query-record`, and so on: the generator calls `list<query>` the same, and C has one space of names.
fn keep_apart(interface: &mut Resolve) {
    for (_, one) in interface.interfaces.iter_mut() {
        for (mut name, id) in std::mem::take(&mut one.types) {
            if name.starts_with("list-") {
                name.push_str("-record");
                interface.types[id].name = Some(name.clone());
            }
            one.types.insert(name, id);
        }
    }
}

/// `gatepost:policy/types@0.1.0` is `types` in C, and so on: else each name would begin with all of that.
fn short_names(resolve: &Resolve, world: WorldId) -> Vec<(String, String)> {
    let world = &resolve.worlds[world];
    let interfaces: BTreeSet<String> = world
        .imports
        .keys()
        .chain(world.exports.keys())
        .map(|key| resolve.name_world_key(key))
        .collect();
    let short = |name: String| {
        let (short, _) = name.strip_prefix("gatepost:policy/")?.split_once('@')?;
        let short = short.replace('-', "_");
        Some((name, short))
    };
    interfaces.into_iter().filter_map(short).collect()
}

/// The files of one folder of the project that are to be compiled and linked, by their places in the project.
fn sources(folder: &Path, within: &str) -> anyhow::Result<Vec<PathBuf>> {
    let listed = folder.join(within);
    let mut found = Vec::new();
    for entry in fs::read_dir(&listed).with_context(|| listed.display().to_string())? {
        let path = Path::new(within).join(entry?.file_name());
        if path
            .extension()
            .is_some_and(|extension| extension == "c" || extension == "o")
        {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}
