//! The parts by themselves: `cargo bench --bench parts`. Each group that has a rival measures it beside.
#![allow(unsafe_code, reason = "allocators are called through their unsafe trait")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::hint::black_box;

use anchorhold::{Account, Backend, Connection, Credential, Environment, LinkedAccountId, NewConnection, ProviderName, RawKey};
use anchorhold::{RootKey, SessionOptions, Vault, ZeroizingAllocator, fuzzing};
use base64ct::{Base64UrlUnpadded, Encoding as _};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use orion::hazardous::aead::xchacha20poly1305::{Nonce, SecretKey, XChaCha20Poly1305};

struct World {
    runtime: tokio::runtime::Runtime,
    vault: Vault,
    backend: Backend,
    account: Account,
    connection: Connection,
    _directory: tempfile::TempDir,
}

fn world() -> World {
    let directory = tempfile::tempdir().expect("a directory");
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    let (vault, backend, account, connection) = runtime.block_on(async {
        let root = RawKey::new(RootKey::generate());
        let vault = Vault::builder(directory.path().join("vault")).root_key(root).open().await.expect("a vault");
        let key = vault.bootstrap_api_key(Environment::Test).await.expect("an API key");
        let backend = vault.backend(&key).await.expect("a backend");
        let account = backend.create_account(&LinkedAccountId::new("bench").expect("an id")).await.expect("an account");
        let connection = account.add_connection(credential(1024)).await.expect("a connection");
        (vault, backend, account, connection)
    });
    World { runtime, vault, backend, account, connection, _directory: directory }
}

fn credential(bytes: usize) -> NewConnection {
    NewConnection::new(ProviderName::new("bench").expect("a name"), Credential::api_key("k".repeat(bytes).into()))
}

fn envelope(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("envelope");
    for bytes in [32, 256, 1024, 16 * 1024] {
        group.throughput(Throughput::Bytes(bytes as u64));
        let plain = vec![7; bytes];
        group.bench_with_input(BenchmarkId::new("seal and open", bytes), &plain, |bencher, plain| {
            bencher.iter(|| fuzzing::seal_and_open(black_box(plain)));
        });
        group.bench_with_input(BenchmarkId::new("bare XChaCha20-Poly1305", bytes), &plain, |bencher, plain| {
            let (key, nonce) = (SecretKey::from([7; 32]), Nonce::from([1; 24]));
            bencher.iter(|| {
                let mut buffer = black_box(plain).clone();
                let tag = XChaCha20Poly1305::seal_inplace(&key, &nonce, Some(b"aad"), &mut buffer).expect("sealing");
                XChaCha20Poly1305::open_inplace(&key, &nonce, &tag, Some(b"aad"), &mut buffer).expect("opening");
                buffer
            });
        });
    }
}

/// As many bytes as a usual token has: to text and back.
fn base64url(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("base64url");
    let (bytes, mut text, mut back) = ([0xa7; 101], [0; 135], [0; 101]);
    group.bench_function("ours", |bencher| {
        bencher.iter(|| fuzzing::base64url_and_back(black_box(&bytes), &mut text, &mut back));
    });
    group.bench_function("base64ct", |bencher| {
        bencher.iter(|| {
            let written = Base64UrlUnpadded::encode(black_box(&bytes), &mut text).is_ok();
            written && Base64UrlUnpadded::decode(black_box(&text[..]), &mut back).is_ok()
        });
    });
}

fn tokens(criterion: &mut Criterion) {
    let world = world();
    let mut group = criterion.benchmark_group("token");
    group.bench_function("mint", |bencher| {
        bencher.iter(|| world.runtime.block_on(world.account.mint_session_token(SessionOptions::new())).expect("a token"));
    });
    let minted = world.runtime.block_on(world.account.mint_session_token(SessionOptions::new())).expect("a token");
    group.bench_function("check", |bencher| {
        bencher.iter(|| world.runtime.block_on(world.vault.session(&minted.token)).expect("a session"));
    });
}

fn credentials(criterion: &mut Criterion) {
    let world = world();
    let mut group = criterion.benchmark_group("credential");
    group.bench_function("reveal 1 KiB", |bencher| {
        bencher.iter(|| world.runtime.block_on(world.connection.reveal(|secret| secret.api_key().map(str::len))).expect("it"));
    });
    group.bench_function("put 1 KiB, durable", |bencher| {
        bencher.iter(|| {
            let credential = Credential::api_key("k".repeat(1024).into());
            world.runtime.block_on(world.connection.replace_credential(credential)).expect("a durable write");
        });
    });
}

fn cold(criterion: &mut Criterion) {
    let world = world();
    let mut number = 0;
    let mut group = criterion.benchmark_group("account");
    group.sample_size(50);
    group.bench_function("create", |bencher| {
        bencher.iter(|| {
            number += 1;
            let id = LinkedAccountId::new(format!("customer-{number}")).expect("an id");
            world.runtime.block_on(world.backend.create_account(&id)).expect("an account")
        });
    });
    group.bench_function("cold", |bencher| {
        // Passivated between two touches: the vault keeps one resident account, and another one is touched in between.
        let directory = tempfile::tempdir().expect("a directory");
        let small = world.runtime.block_on(async {
            let builder = Vault::builder(directory.path().join("vault")).root_key(RawKey::new(RootKey::generate()));
            builder.idle_after(std::time::Duration::ZERO).max_open_shards(1).open().await.expect("a vault")
        });
        let account = world.runtime.block_on(async {
            let key = small.bootstrap_api_key(Environment::Test).await.expect("an API key");
            let backend = small.backend(&key).await.expect("a backend");
            backend.create_account(&LinkedAccountId::new("cold").expect("an id")).await.expect("an account")
        });
        bencher.iter_custom(|times| {
            let mut taken = std::time::Duration::ZERO;
            for _ in 0..times {
                while small.status().resident_accounts > 0 {
                    std::thread::sleep(std::time::Duration::from_millis(1));
                }
                let begun = std::time::Instant::now();
                world.runtime.block_on(account.info()).expect("its facts");
                taken += begun.elapsed();
            }
            taken
        });
    });
}

/// A block that is taken, written to and given back, and one that grows, with the system's allocator alone and with the wiping one.
fn allocator(criterion: &mut Criterion) {
    fn cycle(allocator: &impl GlobalAlloc, layout: Layout) {
        // SAFETY: the layout has a size; the block is written within it and given back once.
        unsafe {
            let block = allocator.alloc(layout);
            black_box(block).write_bytes(7, layout.size());
            allocator.dealloc(block, layout);
        }
    }
    fn grow(allocator: &impl GlobalAlloc, layout: Layout) {
        let double = Layout::from_size_align(2 * layout.size(), layout.align()).expect("a layout");
        // SAFETY: as above; after the `realloc` the block has the doubled layout.
        unsafe {
            let block = allocator.alloc(layout);
            black_box(block).write_bytes(7, layout.size());
            let block = allocator.realloc(block, layout, double.size());
            allocator.dealloc(black_box(block), double);
        }
    }
    let mut group = criterion.benchmark_group("allocator");
    for size in [64, 1024, 16 * 1024, 256 * 1024] {
        let layout = Layout::from_size_align(size, 16).expect("a layout");
        let wiping = ZeroizingAllocator::new();
        group.bench_function(BenchmarkId::new("system", size), |bencher| bencher.iter(|| cycle(&System, layout)));
        group.bench_function(BenchmarkId::new("wiping", size), |bencher| bencher.iter(|| cycle(&wiping, layout)));
        group.bench_function(BenchmarkId::new("system, grows", size), |bencher| bencher.iter(|| grow(&System, layout)));
        group.bench_function(BenchmarkId::new("wiping, grows", size), |bencher| bencher.iter(|| grow(&wiping, layout)));
    }
}

criterion_group!(benches, allocator, envelope, base64url, tokens, credentials, cold);
criterion_main!(benches);
