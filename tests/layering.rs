//! The layer table as a test: who may import whom, which file may name which crate, and where `unsafe` may stand.
//!
//! Sources are read as Rust tokens, so comments and string literals don't count and macro bodies do. Each rule is also run on a
//! snippet that breaks it, in the same file, so that a blind rule fails.

use std::fs;
use std::path::{Path, PathBuf};

use proc_macro2::{Delimiter, TokenStream, TokenTree};

/// Layers, the top one first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Layer {
    /// `lib.rs`: the module list and the one list of exports.
    Root,
    /// Hooks for tests and fuzzers behind the feature `testing`; reaches everywhere. Only the API takes what it hands out, and
    /// without the feature it is not there.
    Hooks,
    Api,
    Runtime,
    OAuth,
    Domain,
    Crypto,
    Storage,
    Base,
}

/// Every top-level module of the crate and its layer. A module that is not here fails the test: give it a layer first.
const MODULES: &[(&str, Layer)] = &[
    ("lib", Layer::Root),
    ("testing", Layer::Hooks),
    ("fuzzing", Layer::Hooks),
    ("vault", Layer::Api),
    ("builder", Layer::Api),
    ("backend", Layer::Api),
    ("account", Layer::Api),
    ("connection", Layer::Api),
    ("session", Layer::Api),
    ("page", Layer::Api),
    ("runtime", Layer::Runtime),
    ("oauth", Layer::OAuth),
    ("domain", Layer::Domain),
    ("crypto", Layer::Crypto),
    ("storage", Layer::Storage),
    ("ids", Layer::Base),
    ("clock", Layer::Base),
    ("codec", Layer::Base),
    ("secret", Layer::Base),
    ("allocator", Layer::Base),
    ("vectors", Layer::Base),
    ("memory", Layer::Base),
];

impl Layer {
    fn may_import(self, other: Layer) -> bool {
        use Layer::{Api, Base, Crypto, Domain, Hooks, OAuth, Root, Runtime, Storage};
        match self {
            Root | Hooks => true,
            Api => matches!(other, Api | Runtime | OAuth | Domain | Base | Hooks),
            Runtime => matches!(other, Runtime | OAuth | Domain | Storage | Base),
            OAuth => matches!(other, OAuth | Domain | Base),
            Domain => matches!(other, Domain | Crypto | Base),
            Crypto => matches!(other, Crypto | Base),
            Storage => matches!(other, Storage | Base),
            Base => false,
        }
    }
}

/// Where a crate that has two places may be named as well.
const ALSO: &[(&str, &str)] = &[("libc", "memory.rs")];

/// Crates that only one place may name: the crate, and the prefix of the files that may (`storage/sled` is `sled.rs` and `sled/`).
const CONTAINED: &[(&str, &str)] = &[
    ("sled", "storage/sled"),
    ("orion", "crypto/"),
    ("chacha20", "crypto/"),
    ("actix", "runtime/"),
    ("actix_rt", "runtime/"),
    ("bincode", "codec.rs"),
    ("libc", "crypto/"),
    ("oauth2", "oauth/token_endpoint/"),
    ("toml", "oauth/catalog"),
    ("reqwest", "oauth/reqwest_client/"),
    ("rustls", "oauth/reqwest_client/"),
    ("tokio", "oauth/reqwest_client/"),
];

/// The files that may hold `unsafe` code.
const UNSAFE: &[&str] = &["crypto/locked.rs", "crypto/environ.rs", "crypto/registers.rs", "allocator.rs", "memory.rs"];

/// Paths of the standard library that do I/O, read a clock or wait: the domain takes values and returns values.
const IMPURE: &[&[&str]] = &[
    &["std", "fs"],
    &["std", "net"],
    &["std", "process"],
    &["std", "thread"],
    &["std", "env"],
    &["std", "time", "SystemTime"],
    &["std", "time", "Instant"],
];

#[test]
fn arrows_only_go_down() {
    let files = sources();
    assert!(files.len() >= 8, "only {} source files found: is the test looking in the right place?", files.len());
    let violations: Vec<String> = files.iter().flat_map(|(file, text)| check(file, text)).collect();
    assert!(violations.is_empty(), "layers are broken:\n{}", violations.join("\n"));
}

#[test]
fn crates_are_named_where_they_are_contained() {
    // The other direction of the rule: were the prefix misspelt or the crate gone, the rule would hold of nothing.
    let files = sources();
    for (krate, place) in CONTAINED.iter().chain(ALSO).filter(|(krate, _)| *krate != "actix_rt") {
        let users = files.iter().filter(|(file, text)| file.starts_with(place) && names_crate(text, krate)).count();
        assert!(users > 0, "no file under {place} names {krate}");
    }
}

#[test]
fn a_violation_of_each_rule_is_caught() {
    let cases = [
        ("domain/credential.rs", "use crate::storage::Storage;", "domain may not import storage"),
        ("domain/a/b.rs", "use super::super::super::runtime::Router;", "domain may not import runtime"),
        ("domain/a.rs", "mod tests { use super::super::super::vault; }", "domain may not import vault"),
        ("crypto/keyring.rs", "fn f() { crate::domain::account::open(); }", "crypto may not import domain"),
        ("storage/mod.rs", "use crate::{ids::ShardId, crypto::{keyring::Keyring, self}};", "storage may not import crypto"),
        ("vault.rs", "fn f(x: &crate::crypto::Keyring) {}", "vault may not import crypto"),
        ("vault.rs", "fn f(x: &crate::storage::Commit) {}", "vault may not import storage"),
        ("runtime/actor.rs", "use crate::vault::Vault;", "runtime may not import vault"),
        ("runtime/actor.rs", "use crate::storage::sled::SledPlace;", "inside of storage"),
        ("runtime/actor.rs", "make!(crate::crypto::Keyring);", "runtime may not import crypto"),
        ("runtime/actor.rs", "use crate::testing::Hook;", "runtime may not import testing"),
        ("domain/a.rs", "fn f(x: crate::testing::ManualClock) {}", "domain may not import testing"),
        ("oauth/http.rs", "use crate::runtime::Router;", "oauth may not import runtime"),
        ("oauth/http.rs", "use crate::storage::Storage;", "oauth may not import storage"),
        ("domain/oauth/settings.rs", "use crate::oauth::http::HttpClient;", "domain may not import oauth"),
        ("ids.rs", "use crate::clock::Timestamp;", "ids may not import clock"),
        ("storage/mod.rs", "pub use sled;", "names sled"),
        ("storage/mod.rs", "extern crate sled as s;", "names sled"),
        ("storage/model/mod.rs", "fn f() -> sled::Result<()> { Ok(()) }", "names sled"),
        ("storage/mod.rs", "fn f() -> ::sled::Db { g() }", "names sled"),
        ("storage/mod.rs", "mod sled; fn f() -> ::sled::Db { g() }", "names sled"),
        ("runtime/mod.rs", "mod storage; fn f() { crate::crypto::f(); }", "runtime may not import crypto"),
        ("domain/session_token.rs", "use orion::hazardous::aead;", "names orion"),
        ("vault.rs", "use {actix::prelude::*};", "names actix"),
        ("domain/audit.rs", "fn f() { bincode::serde::encode_to_vec(1) }", "names bincode"),
        ("oauth/catalog.rs", "use oauth2::Scope;", "names oauth2"),
        ("oauth/discovery.rs", "fn f(c: reqwest::Client) {}", "names reqwest"),
        ("runtime/mod.rs", "fn f() { tokio::spawn(g()); }", "names tokio"),
        ("crypto/keyring.rs", "fn f() { unsafe { g() } }", "unsafe"),
        ("domain/refresh.rs", "fn now() { std::time::SystemTime::now(); }", "std::time::SystemTime"),
        ("domain/refresh.rs", "use std::time::{Duration, Instant};", "std::time::Instant"),
        ("domain/refresh.rs", "use std::fs;", "std::fs"),
        ("novelty.rs", "fn f() {}", "has no layer"),
        ("novelty/mod.rs", "fn f() {}", "has no layer"),
        ("domain/a.rs", "fn f(", "is not Rust"),
    ];
    for (file, text, expected) in cases {
        let found = check(file, text);
        assert!(
            found.iter().any(|violation| violation.contains(expected)),
            "{file}: `{text}` should have been caught as '{expected}', found {found:?}"
        );
    }
}

#[test]
fn what_is_allowed_is_not_caught() {
    let cases = [
        ("storage/sled/engine.rs", "use sled::Db; use crate::storage::{Commit, sled::place}; use crate::ids::ShardId;"),
        (
            "storage/mod.rs",
            "mod sled; pub(crate) use self::sled::SledPlace; fn f() { crate::storage::sled::open(); sled::open(); }",
        ),
        ("crypto/locked.rs", "fn f() { unsafe { libc::mlock(p, 1) } }"),
        ("crypto/environ.rs", "fn f() { unsafe { p.write(0) } }"),
        ("allocator.rs", "fn f() { unsafe { p.write(0) } }"),
        ("domain/account.rs", "use crate::crypto::Keyring; use std::time::Duration; use super::audit; // crate::storage"),
        ("domain/account.rs", "/// See `crate::runtime::Router`, sled::Db.\nfn f() { log(\"actix::main\"); }"),
        ("runtime/mod.rs", "use actix::Actor; use crate::storage::Storage; use crate::domain::Account;"),
        (
            "vault.rs",
            "use crate::runtime::Router; use crate::page::Page; use crate::testing::ModelDisk; fn f(sled: u8) -> u8 { sled }",
        ),
        ("lib.rs", "mod storage; pub use crate::storage::X;"),
        ("oauth/http.rs", "use crate::domain::oauth::failure::TokenFailure; use crate::clock::Timestamp;"),
        ("runtime/refresh.rs", "use crate::oauth::http::HttpClient;"),
        ("codec.rs", "use bincode::config;"),
        ("crypto/keyring.rs", "fn f(x: &str) -> impl Iterator + use<'_> { let sled = orion(1); sled }"),
    ];
    for (file, text) in cases {
        assert_eq!(check(file, text), Vec::<String>::new(), "{file}: `{text}` is allowed");
    }
}

/// All that is wrong with one file, by its path under `src/`.
fn check(file: &str, text: &str) -> Vec<String> {
    let Ok(tokens) = text.parse::<TokenStream>() else {
        return vec![format!("{file} is not Rust")];
    };
    let module = module_path(file);
    let top = module.first().map_or("lib", String::as_str);
    let Some(layer) = layer_of(top) else {
        return vec![format!("{file}: module {top} has no layer; put it into the table of this test")];
    };
    let mut found = Vec::new();
    let names = Names::of(tokens, &module);
    for path in &names.inside {
        // A name of `lib.rs` itself (a macro, a re-export) belongs to no layer below it.
        let Some(target) = path.first().and_then(|name| layer_of(name).map(|layer| (name, layer))) else { continue };
        let (name, other) = target;
        if name != top && !layer.may_import(other) {
            found.push(format!("{file}: {top} may not import {name} (crate::{})", path.join("::")));
        }
        let engine = path.get(1).is_some_and(|second| second == "sled" || second == "model");
        if other == Layer::Storage && engine && !matches!(layer, Layer::Storage | Layer::Hooks | Layer::Root) {
            found.push(format!("{file}: an engine is the inside of storage (crate::{})", path.join("::")));
        }
    }
    for (krate, place) in CONTAINED {
        if !file.starts_with(place) && !ALSO.contains(&(krate, file)) && names.outside.iter().any(|path| path[0] == *krate) {
            found.push(format!("{file}: names {krate}, which only {place} may"));
        }
    }
    if layer == Layer::Domain {
        for impure in IMPURE {
            if names.outside.iter().any(|path| path.iter().map(String::as_str).collect::<Vec<_>>().starts_with(impure)) {
                found.push(format!("{file}: {} in the domain, which does no I/O and has no clock", impure.join("::")));
            }
        }
    }
    if names.has_unsafe && !UNSAFE.contains(&file) {
        found.push(format!("{file}: unsafe outside {}", UNSAFE.join(" and ")));
    }
    found
}

fn layer_of(module: &str) -> Option<Layer> {
    MODULES.iter().find(|(name, _)| *name == module).map(|(_, layer)| *layer)
}

/// `domain/a/b.rs` is `[domain, a, b]`, `domain/mod.rs` is `[domain]`, `lib.rs` is `[]`.
fn module_path(file: &str) -> Vec<String> {
    let mut path: Vec<String> = file.trim_end_matches(".rs").split('/').map(str::to_owned).collect();
    if path.last().is_some_and(|last| last == "mod" || last == "lib") {
        path.pop();
    }
    path
}

fn names_crate(text: &str, krate: &str) -> bool {
    text.parse::<TokenStream>().is_ok_and(|tokens| Names::of(tokens, &[]).outside.iter().any(|path| path[0] == krate))
}

/// The paths that a file names.
#[derive(Default)]
struct Names {
    /// Paths into this crate, from its root.
    inside: Vec<Vec<String>>,
    /// Paths that may start with another crate's name.
    outside: Vec<Vec<String>>,
    /// Modules that the file declares: what a path starts with that names one is that module.
    declared: Vec<String>,
    has_unsafe: bool,
}

impl Names {
    fn of(tokens: TokenStream, module: &[String]) -> Self {
        let mut names = Self::default();
        names.read(tokens, module);
        let declared = std::mem::take(&mut names.declared);
        let (own, outside): (Vec<_>, Vec<_>) =
            std::mem::take(&mut names.outside).into_iter().partition(|path| declared.contains(&path[0]));
        names.outside = outside.into_iter().map(|path| path.into_iter().filter(|word| !word.is_empty()).collect()).collect();
        names.inside.extend(own.into_iter().map(|path| [module, &path].concat()));
        names
    }

    fn read(&mut self, tokens: TokenStream, module: &[String]) {
        let tokens: Vec<TokenTree> = tokens.into_iter().collect();
        let mut at = 0;
        let mut in_use = false;
        while at < tokens.len() {
            match &tokens[at] {
                TokenTree::Ident(ident) if ident == "unsafe" => self.has_unsafe = true,
                // Not the `use<'a>` of an `impl Trait`.
                TokenTree::Ident(ident) if ident == "use" => in_use = !tokens.get(at + 1).is_some_and(|t| is_punct(t, '<')),
                // `extern crate x` is a use of `x`; a lone `crate` is nothing.
                TokenTree::Ident(ident) if ident == "extern" => {
                    in_use = matches!(tokens.get(at + 1), Some(TokenTree::Ident(next)) if next == "crate");
                }
                TokenTree::Ident(ident) if ident == "mod" => {
                    if let (Some(TokenTree::Ident(name)), Some(TokenTree::Group(body))) = (tokens.get(at + 1), tokens.get(at + 2))
                    {
                        let mut inner = module.to_vec();
                        inner.push(name.to_string());
                        self.read(body.stream(), &inner);
                        at += 2;
                    } else {
                        // `mod name;` declares, it imports nothing.
                        if let Some(TokenTree::Ident(name)) = tokens.get(at + 1) {
                            self.declared.push(name.to_string());
                        }
                        at += 1;
                    }
                }
                TokenTree::Punct(punct) if punct.as_char() == ';' => in_use = false,
                TokenTree::Ident(_) => {
                    let after_dot = at > 0 && is_punct(&tokens[at - 1], '.');
                    // `::sled` is the crate, whatever the file declares; the empty word keeps the two apart.
                    let global = at > 1 && is_punct(&tokens[at - 1], ':') && is_punct(&tokens[at - 2], ':');
                    let start = if global { vec![String::new()] } else { Vec::new() };
                    at = self.path(&tokens, at, start, module, in_use, after_dot);
                    continue;
                }
                TokenTree::Group(group) if in_use && group.delimiter() == Delimiter::Brace => {
                    self.tree(group.stream(), &[], module);
                }
                TokenTree::Group(group) => self.read(group.stream(), module),
                _ => {}
            }
            at += 1;
        }
    }

    /// Reads `a::b::{…}` from the identifier at `at` and returns where it ends.
    fn path(
        &mut self,
        tokens: &[TokenTree],
        mut at: usize,
        mut path: Vec<String>,
        module: &[String],
        in_use: bool,
        after_dot: bool,
    ) -> usize {
        loop {
            match tokens.get(at) {
                Some(TokenTree::Ident(ident)) => path.push(ident.to_string()),
                Some(TokenTree::Group(group)) if in_use && group.delimiter() == Delimiter::Brace => {
                    self.tree(group.stream(), &path, module);
                    return at + 1;
                }
                _ => break,
            }
            at += 1;
            if tokens.get(at).is_some_and(|t| is_punct(t, ':')) && tokens.get(at + 1).is_some_and(|t| is_punct(t, ':')) {
                at += 2;
            } else {
                break;
            }
        }
        // One segment alone is a variable, a field or a keyword, except in a `use`.
        if !after_dot && (path.len() > 1 || in_use) {
            self.resolve(path, module);
        }
        at
    }

    /// Reads the comma-separated inside of a `use a::{…}`.
    fn tree(&mut self, tokens: TokenStream, prefix: &[String], module: &[String]) {
        let tokens: Vec<TokenTree> = tokens.into_iter().collect();
        for part in tokens.split(|token| is_punct(token, ',')) {
            let start = part.iter().position(|token| !is_punct(token, ':')).unwrap_or(0);
            if !part.is_empty() {
                self.path(part, start, prefix.to_vec(), module, true, false);
            }
        }
    }

    fn resolve(&mut self, path: Vec<String>, module: &[String]) {
        let mut base = module.to_vec();
        let mut rest = path.as_slice();
        match rest.first().map(String::as_str) {
            Some("crate") => {
                base.clear();
                rest = &rest[1..];
            }
            Some("self" | "super") => {
                while let Some(first) = rest.first().filter(|word| *word == "self" || *word == "super") {
                    if first == "super" {
                        base.pop();
                    }
                    rest = &rest[1..];
                }
            }
            Some(_) => {
                self.outside.push(path);
                return;
            }
            None => return,
        }
        base.extend(rest.iter().cloned());
        self.inside.push(base);
    }
}

fn is_punct(token: &TokenTree, wanted: char) -> bool {
    matches!(token, TokenTree::Punct(punct) if punct.as_char() == wanted)
}

/// Every file under `src/` with its path from there.
fn sources() -> Vec<(String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    collect(&root, &root, &mut files);
    files.sort();
    files
}

fn collect(root: &Path, folder: &Path, files: &mut Vec<(String, String)>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path: PathBuf = entry.unwrap().path();
        if path.is_dir() {
            collect(root, &path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let name = path.strip_prefix(root).unwrap().to_string_lossy().replace('\\', "/");
            files.push((name, fs::read_to_string(&path).unwrap()));
        }
    }
}
