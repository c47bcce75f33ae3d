//! Makes a plugin out of what the Rust compiler leaves: a core WebAssembly module goes in, a component
//! comes out.
//!
//! A plugin's interface (its WIT world) travels inside the core module as a custom section that the
//! bindings generator put there, so nothing but the module is needed. The component that comes out is
//! validated before it is returned.
//!
//! Never: runs the compiler, runs the module, links WASI in. A plugin of Gatepost has no WASI; a module
//! that wants it is refused here with its remedy, rather than at load time.
//!
//! Fails with an [`EncodeError`] that says what is wrong with the module and what to do, or with a
//! [`FileError`] that names the file.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use wasmparser::{Encoding, Parser, Payload, TypeRef};
use wit_component::ComponentEncoder;

/// Bytes of the largest module that is read. Far above any plugin written by hand (tens of kilobytes to a
/// few megabytes): a file beyond it is a wrong path, not a plugin.
pub const MAX_MODULE_BYTES: u64 = 256 * 1024 * 1024;

/// The custom section in which bindings generators leave the plugin's interface begins with this.
const WORLD_SECTION_PREFIX: &str = "component-type";

/// Modules of this name prefix are what a wasm32-wasip1 build imports.
const WASI_PREVIEW1_PREFIX: &str = "wasi_";

/// Why a module could not become a component.
#[derive(Debug, thiserror::Error)]
pub enum EncodeError {
    /// The bytes do not begin as WebAssembly does, or are damaged.
    #[error("it is not a WebAssembly module: {0}; build the plugin for the target wasm32-unknown-unknown")]
    NotWasm(String),

    /// The bytes are a component already.
    #[error("it is a component already, so there is nothing to do: use the file as it is")]
    AlreadyComponent,

    /// The module carries no interface: it was not built with the plugin bindings.
    #[error(
        "it describes no interface: the crate must be a `cdylib` that uses `gatepost-sdk` (or `wit-bindgen`) \
         and calls its `export!` macro"
    )]
    NoInterface,

    /// The module was built against WASI, which plugins do not have.
    #[error(
        "it imports `{function}` from `{module}`, which is WASI, and a plugin has no WASI: build it for \
         wasm32-unknown-unknown instead of wasm32-wasip1"
    )]
    ImportsWasi {
        /// The imported module, for example `wasi_snapshot_preview1`.
        module: String,
        /// The imported function, for example `fd_write`.
        function: String,
    },

    /// The module imports something that no interface of its world offers: an `extern` block, or a crate that
    /// expects a browser.
    #[error(
        "it imports `{function}` from `{module}`, which nothing can provide: some dependency expects a browser \
         or a C library (try its features for wasm32-unknown-unknown)"
    )]
    ImportsUnknown {
        /// The imported module, for example `env` or `__wbindgen_placeholder__`.
        module: String,
        /// The imported function.
        function: String,
    },

    /// The module does not fit the interface that it describes, or is not valid.
    #[error("it does not fit its own interface: {0}")]
    Mismatch(String),
}

/// Why a file could not be turned into another.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// The module could not be read.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// The module.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },

    /// The module is larger than [`MAX_MODULE_BYTES`].
    #[error(
        "{} has {size} bytes, more than the {MAX_MODULE_BYTES} a module may have",
        path.display()
    )]
    TooLarge {
        /// The module.
        path: PathBuf,
        /// Its size in bytes.
        size: u64,
    },

    /// The module cannot become a component.
    #[error("{} cannot become a plugin: {source}", path.display())]
    Encode {
        /// The module.
        path: PathBuf,
        /// What is wrong with it.
        source: EncodeError,
    },

    /// The component could not be written.
    #[error("cannot write {}: {source}", path.display())]
    Write {
        /// The component, or its temporary neighbour.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// What [`build_file`] did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The file is new or has new contents.
    Written,
    /// The file had these contents already and was not touched, so that nobody who watches it is woken.
    Unchanged,
}

/// Turns a core module into a component, and validates the result.
///
/// The same bytes in give the same bytes out.
pub fn encode(module: &[u8]) -> Result<Vec<u8>, EncodeError> {
    inspect(module)?;
    // `{:#}` prints an error of `wit-component` with all its causes in one line.
    let mismatch = |error| EncodeError::Mismatch(format!("{error:#}"));
    let mut encoder = ComponentEncoder::default();
    encoder.validate(true).module(module).map_err(mismatch)?;
    encoder.encode().map_err(mismatch)
}

/// Reads the core module at `module`, and leaves the component at `component` (its folder is made).
///
/// The file is replaced by a rename, so a reader sees the old component or the new one, never a part; and
/// it is left alone when its contents are right already.
pub fn build_file(module: &Path, component: &Path) -> Result<Outcome, FileError> {
    let bytes = encode(&read(module)?).map_err(|source| FileError::Encode {
        path: module.to_owned(),
        source,
    })?;
    write_if_changed(component, &bytes)
}

/// Finds the mistakes whose messages from the encoder would not help an author.
fn inspect(module: &[u8]) -> Result<(), EncodeError> {
    let not_wasm = |error: wasmparser::BinaryReaderError| EncodeError::NotWasm(error.to_string());
    let mut has_interface = false;
    let mut unknown_import = None;
    for payload in Parser::new(0).parse_all(module) {
        match payload.map_err(not_wasm)? {
            Payload::Version {
                encoding: Encoding::Component,
                ..
            } => return Err(EncodeError::AlreadyComponent),
            Payload::CustomSection(section) => {
                has_interface |= section.name().starts_with(WORLD_SECTION_PREFIX);
            }
            Payload::ImportSection(imports) => {
                for import in imports.into_imports() {
                    let import = import.map_err(not_wasm)?;
                    let names = (import.module.to_owned(), import.name.to_owned());
                    if import.module.starts_with(WASI_PREVIEW1_PREFIX) {
                        let (module, function) = names;
                        return Err(EncodeError::ImportsWasi { module, function });
                    }
                    let is_function = matches!(import.ty, TypeRef::Func(_));
                    if is_function && !names_an_interface(import.module) {
                        unknown_import.get_or_insert(names);
                    }
                }
            }
            _ => {}
        }
    }
    if let Some((module, function)) = unknown_import {
        return Err(EncodeError::ImportsUnknown { module, function });
    }
    if !has_interface {
        return Err(EncodeError::NoInterface);
    }
    Ok(())
}

/// Whether an import's module name can stand for an interface of a world: `package:name/interface`, `$root`
/// for functions of the world itself, or an intrinsic of the component model in brackets.
fn names_an_interface(module: &str) -> bool {
    module.contains(':') || module.contains('/') || module.starts_with('$') || module.starts_with('[')
}

fn read(path: &Path) -> Result<Vec<u8>, FileError> {
    let failed = |source| FileError::Read {
        path: path.to_owned(),
        source,
    };
    let size = fs::metadata(path).map_err(failed)?.len();
    if size > MAX_MODULE_BYTES {
        return Err(FileError::TooLarge {
            path: path.to_owned(),
            size,
        });
    }
    fs::read(path).map_err(failed)
}

fn write_if_changed(path: &Path, bytes: &[u8]) -> Result<Outcome, FileError> {
    // Unreadable is treated as changed: the write below then says what is wrong, if anything is.
    if fs::read(path).is_ok_and(|old| old == bytes) {
        return Ok(Outcome::Unchanged);
    }
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).map_err(|source| FileError::Write {
            path: folder.to_owned(),
            source,
        })?;
    }
    // Beside the target, so that the rename stays within one file system; named by process, so that two builds
    // at once do not write into one file.
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{}.tmp", std::process::id()));
    let temporary = PathBuf::from(name);
    let written = write_synced(&temporary, bytes)
        .map_err(|source| (temporary.as_path(), source))
        .and_then(|()| fs::rename(&temporary, path).map_err(|source| (path, source)));
    written.map_err(|(at, source)| {
        // The first error is the one to report; the temporary file may not even exist.
        let _ = fs::remove_file(&temporary);
        FileError::Write {
            path: at.to_owned(),
            source,
        }
    })?;
    Ok(Outcome::Written)
}

fn write_synced(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = fs::File::create(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;
    use wit_component::{StringEncoding, dummy_module, embed_component_metadata};
    use wit_parser::{ManglingAndAbi, Resolve};

    /// A module as the Rust compiler and the bindings would leave it: one import, one export, a world.
    fn module_with_world() -> Vec<u8> {
        let mut resolve = Resolve::default();
        let package = resolve
            .push_str(
                "policy.wit",
                "package test:policy@0.1.0;
                 interface log { log: func(text: string); }
                 interface on-rcpt { on-rcpt: func(rcpt: list<u8>) -> result<string, string>; }
                 world plugin { import log; export on-rcpt; }",
            )
            .expect("the text above is valid WIT");
        let world = resolve
            .select_world(&[package], None)
            .expect("the text above has one world");
        let mangling = ManglingAndAbi::Legacy(wit_parser::LiftLowerAbi::Sync);
        let mut module = dummy_module(&resolve, world, mangling);
        embed_component_metadata(&mut module, &resolve, world, StringEncoding::UTF8).expect("the world encodes");
        module
    }

    /// A core module: header, then the sections given.
    fn module(sections: &[&[u8]]) -> Vec<u8> {
        let mut bytes = b"\0asm\x01\0\0\0".to_vec();
        sections.iter().for_each(|section| bytes.extend_from_slice(section));
        bytes
    }

    /// One imported function `f` of type `() -> ()` from `from`.
    fn module_importing(from: &str) -> Vec<u8> {
        let mut import = vec![1, from.len() as u8];
        import.extend_from_slice(from.as_bytes());
        import.extend_from_slice(b"\x01f\0\0");
        let mut section = vec![2, import.len() as u8];
        section.extend_from_slice(&import);
        module(&[b"\x01\x04\x01\x60\0\0", &section])
    }

    #[test]
    fn a_module_with_a_world_becomes_the_same_valid_component_every_time() {
        let component = encode(&module_with_world()).expect("encodes");
        assert_eq!(component, encode(&module_with_world()).expect("encodes"));
        wasmparser::Validator::new().validate_all(&component).expect("is valid");
        let starts_as = Parser::new(0).parse_all(&component).next();
        assert!(matches!(
            starts_as,
            Some(Ok(Payload::Version {
                encoding: Encoding::Component,
                ..
            }))
        ));
    }

    #[test]
    fn what_is_no_plugin_is_refused_with_a_remedy() {
        let component = encode(&module_with_world()).expect("encodes");
        let with_world = module_with_world();
        let cases: &[(&[u8], &str)] = &[
            (b"", "not a WebAssembly module"),
            (b"#!/bin/sh\necho no\n", "not a WebAssembly module"),
            (&with_world[..with_world.len() - 7], "not a WebAssembly module"),
            (&component, "a component already"),
            (&module(&[]), "calls its `export!` macro"),
            (&module_importing("wasi_snapshot_preview1"), "instead of wasm32-wasip1"),
            (
                &module_importing("env"),
                "imports `f` from `env`, which nothing can provide",
            ),
        ];
        for (bytes, expected) in cases {
            let message = encode(bytes).expect_err(expected).to_string();
            assert!(message.contains(expected), "{message:?} lacks {expected:?}");
        }
    }

    #[test]
    fn a_module_that_lacks_what_its_world_promises_is_refused() {
        let mut resolve = Resolve::default();
        let package = resolve
            .push_str("p.wit", "package a:b; world w { export missing: func(); }")
            .expect("the text above is valid WIT");
        let world = resolve
            .select_world(&[package], None)
            .expect("the text above has one world");
        let mut bytes = module(&[]);
        embed_component_metadata(&mut bytes, &resolve, world, StringEncoding::UTF8).expect("the world encodes");
        let message = encode(&bytes).expect_err("lacks an export").to_string();
        assert!(message.contains("missing"), "{message}");
    }

    #[test]
    fn a_file_is_written_once_and_left_alone_when_it_is_right() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let (core, out) = (
            folder.path().join("core.wasm"),
            folder.path().join("new/folder/plugin.wasm"),
        );
        fs::write(&core, module_with_world()).expect("written");
        assert_eq!(build_file(&core, &out).expect("builds"), Outcome::Written);
        assert_eq!(build_file(&core, &out).expect("builds"), Outcome::Unchanged);
        fs::write(&out, b"stale").expect("written");
        assert_eq!(build_file(&core, &out).expect("builds"), Outcome::Written);
        let names: Vec<_> = fs::read_dir(folder.path().join("new/folder"))
            .expect("a folder")
            .map(|entry| entry.expect("an entry").file_name())
            .collect();
        assert_eq!(names, ["plugin.wasm"], "no temporary file is left");
    }

    #[test]
    fn a_bad_module_leaves_the_old_component_in_place() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let (core, out) = (folder.path().join("core.wasm"), folder.path().join("plugin.wasm"));
        fs::write(&core, b"no module").expect("written");
        fs::write(&out, b"old").expect("written");
        let message = build_file(&core, &out).expect_err("refused").to_string();
        assert!(message.contains("core.wasm cannot become a plugin"), "{message}");
        assert_eq!(fs::read(&out).expect("still there"), b"old");
    }
}
