#!/usr/bin/env python3
"""Prints the vectors of docs/format.md. Shares no code with the library: the hash is Python's, the cipher the one written out in
token-vectors.py, the layouts come from the document. `--check FILE` exits with 1 unless FILE has them all."""

import base64
import hashlib
import importlib.util
import pathlib
import struct
import sys
import zlib

_spec = importlib.util.spec_from_file_location("token_vectors", pathlib.Path(__file__).with_name("token-vectors.py"))
_token_vectors = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_token_vectors)
xchacha20poly1305, run = _token_vectors.seal, _token_vectors.run

# --- derivation ---


def keyed_hash(role, key, label, parts):
    message = role + bytes([len(label)]) + label.encode()
    message += b"".join(struct.pack("<Q", len(part)) + part for part in parts)
    return hashlib.blake2b(message, key=key, digest_size=32).digest()


def derive(key, label, *context):
    return keyed_hash(b"D", key, "anchorhold/" + label, context)


def mac(key, label, *parts):
    return keyed_hash(b"M", key, "anchorhold/" + label, parts)


# --- envelope ---


def envelope(key, key_version, revision, nonce, aad, data):
    header = b"\x01" + struct.pack(">IQ", key_version, revision) + nonce
    plaintext = struct.pack("<I", len(data)) + data
    plaintext += bytes(-len(plaintext) % 32)
    return header + xchacha20poly1305(key, nonce, header + b"".join(struct.pack("<Q", len(p)) + p for p in aad), plaintext)


# --- the codec: bincode 2, standard configuration, behind a version byte ---


def varint(n):
    if n < 251:
        return bytes([n])
    for mark, size, limit in ((251, 2, 1 << 16), (252, 4, 1 << 32), (253, 8, 1 << 64)):
        if n < limit:
            return bytes([mark]) + n.to_bytes(size, "little")


def text(value):
    return varint(len(value.encode())) + value.encode()


def encoded(*fields):
    return b"\x01" + b"".join(fields)


NONE = b"\0"
FALSE, TRUE = b"\0", b"\1"

# --- everything that the vectors are about ---

ROOT_KEY, VAULT, VAULT_KEY = run(0x00, 32), run(0x20, 16), run(0x80, 32)
ACCOUNT_KEY, TOKEN_KEY, AUDIT_KEY = run(0xA0, 32), run(0xC0, 32), run(0xE0, 32)
ENVIRONMENT = b"\x01"  # test
ID, NOW, SHARD, GENERATION = "acme-42", 1_700_000_000_000, 0, 1
ACTOR_HOST, ACCOUNT_CREATED = varint(3), varint(0)


def locator():
    return mac(derive(VAULT_KEY, "locator"), "locator", ENVIRONMENT, ID.encode())


HANDLE = locator()[:4] + run(0x34, 12)


def nonce(number):
    return bytes([number]) * 24


def header():
    prefix = b"ANCHORHOLD\0" + struct.pack(">H", 1)
    sealing_key = derive(ROOT_KEY, "vault-key-seal", VAULT)
    sealed = envelope(sealing_key, GENERATION, 0, nonce(0x51), [prefix, VAULT, b""], VAULT_KEY)
    content = prefix + VAULT + b"\x01" + struct.pack(">IH", GENERATION, 0) + sealed
    return content + mac(derive(VAULT_KEY, "header"), "header", content)


def header_file(content):
    body = b"AHHEADER" + struct.pack(">QI", 1, len(content)) + content
    return body + struct.pack(">I", zlib.crc32(body))


def wrapped(purpose, key, number):
    wrap_key = derive(ROOT_KEY, "wrap", VAULT, struct.pack(">I", GENERATION))
    return envelope(wrap_key, GENERATION, 1, nonce(number), [VAULT, ENVIRONMENT, HANDLE, purpose], key)


def account_rows():
    aad = lambda name: [VAULT, ENVIRONMENT, HANDLE, name]
    rows = {b"k": wrapped(b"account-key", ACCOUNT_KEY, 0x61), b"t": wrapped(b"token-key", TOKEN_KEY, 0x62),
            b"a": wrapped(b"audit-key", AUDIT_KEY, 0x63)}
    info = encoded(text(ID), text(""), varint(NOW), varint(NOW), FALSE, varint(0), varint(1))
    rows[b"i"] = envelope(derive(ACCOUNT_KEY, "account-record"), 1, 1, nonce(0x64), aad(b"i"), info)

    entry = varint(NOW) + ACTOR_HOST + ACCOUNT_CREATED + NONE
    first = struct.pack(">Q", 1)
    body = encoded(varint(1), varint(0), varint(len(entry)), entry)
    link = mac(derive(AUDIT_KEY, "audit-chain"), "audit-chain", bytes(32), first, body)
    segment = body + link
    name = b"u" + first
    audit = envelope(derive(AUDIT_KEY, "audit-record"), 1, 1, nonce(0x65), aad(name), segment)

    digest = bytes(32)
    for key, sealed in rows.items():
        element = mac(derive(ACCOUNT_KEY, "account-digest"), "account-digest", key, sealed[5:13], sealed[-16:])
        digest = bytes(a ^ b for a, b in zip(digest, element))
    head = encoded(digest, varint(1), bytes(32), varint(2), link, varint(1), varint(0))
    rows[b"h"] = envelope(derive(ACCOUNT_KEY, "account-head"), 1, 1, nonce(0x66), aad(b"h"), head)
    rows[name] = audit
    plain = {b"k": ACCOUNT_KEY, b"t": TOKEN_KEY, b"a": AUDIT_KEY, b"i": info, b"h": head, name: segment}
    return rows, plain, digest


def directory_rows():
    by_id = struct.pack(">H", int.from_bytes(locator()[:2], "big") >> 4) + b"a" + locator() + ENVIRONMENT
    lost = run(0x30, 16)
    unnamed = struct.pack(">H", int.from_bytes(lost[:2], "big") >> 4) + b"n" + lost
    plain = {by_id: encoded(text(ID), HANDLE, varint(SHARD), varint(NOW)), unnamed: encoded(varint(SHARD))}
    rows, heads, marks, number = {}, {}, {}, 0x71
    seal_row = lambda key, data: envelope(derive(VAULT_KEY, "directory-seal"), 1, 1, nonce(number), [VAULT, key], data)
    for key, data in plain.items():
        rows[key] = seal_row(key, data)
        number += 1
        # One row in each bucket, so its hash is the digest.
        digest = mac(derive(VAULT_KEY, "directory-element"), "directory-element", key, rows[key])
        heads[key[:2] + b"\0"] = encoded(digest)
        rows[key[:2] + b"\0"] = seal_row(key[:2] + b"\0", encoded(digest))
        number += 1
        marks[key[:2]] = mac(derive(VAULT_KEY, "bucket-head"), "bucket-head", key[:2], struct.pack(">Q", 1), digest)
    return {**plain, **heads}, rows, marks


def anchor(kind, shard, counter, name, body):
    content = b"AHANCHOR" + struct.pack(">HBIQ", 1, kind, shard, counter) + body
    return content + mac(derive(VAULT_KEY, "anchor"), "anchor", name, content)


def shard_anchor():
    body = struct.pack(">IH", 0, 1) + HANDLE + struct.pack(">Q", 1) + bytes(32)
    return anchor(2, SHARD, 1, b"shard.anchor" + struct.pack(">I", SHARD), body)


def directory_anchor(marks):
    body = struct.pack(">I", len(marks))
    body += b"".join(bucket + struct.pack(">Q", 1) + marks[bucket] for bucket in sorted(marks))
    body += struct.pack(">I", 1) + struct.pack(">QHI", 1, 1, 0)
    return anchor(1, 0, 2, b"directory.anchor", body)


def commit_log():
    def frame(body):
        crc = zlib.crc32(struct.pack(">Q", 1) + body)
        return b"AHCF" + struct.pack(">II", len(body), crc) + body

    def sized(kind, data):
        return struct.pack(kind, len(data)) + data

    content = b"AHCOMMIT" + struct.pack(">HQ", 1, 1)
    header = content + mac(derive(VAULT_KEY, "anchor"), "anchor", b"commits", content)
    shard = struct.pack(">II", SHARD, 0)
    mark = bytes(3) + struct.pack(">Q", 1) + bytes(32)
    creation = b"\x02" + shard + sized(">B", HANDLE) + struct.pack(">H", 1) + mark + struct.pack(">H", 0)
    creation += struct.pack(">H", 1) + sized(">H", b"k") + sized(">I", b"value") + struct.pack(">H", 0)
    bucket = b"\x01" + struct.pack(">H", 0x303) + struct.pack(">Q", 2) + b"\x77" * 32
    change = b"\x01" + b"\xff" * 4 + bytes(4) + sized(">B", b"directory") + struct.pack(">H", 1) + bucket
    change += struct.pack(">H", 1) + sized(">H", b"gone") + struct.pack(">H", 0)
    change += struct.pack(">H", 1) + sized(">H", b"soon") + sized(">I", b"gone")
    return [("header", header), ("creation", frame(creation)), ("change", frame(change)), ("settled", frame(b"\x03" + shard))]


def vault_head(directory):
    counter, digest = struct.pack(">Q", 2), directory[-32:-16]
    seal = mac(derive(VAULT_KEY, "vault-head"), "vault-head", VAULT, counter, digest)[:16]
    return "head_" + base64.urlsafe_b64encode(VAULT + counter + digest + seal).rstrip(b"=").decode()


def large_row():
    """A row of 4,196 bytes under the key `s` and 16 bytes: it is cut into two parts."""
    key, value = b"s" + run(0x10, 16), bytes(at % 251 for at in range(4196))
    yield "row key", key.hex()
    yield "entry", (b"\x01" + key).hex()
    yield "holds", (b"\x01" + struct.pack(">HII", 2, len(value), zlib.crc32(value))).hex()
    for number in range(2):
        yield "entry", (b"\x02" + struct.pack(">H", len(key)) + key + struct.pack(">H", number)).hex()


def row_fields(rows, plain):
    return [field for key in rows for field in (("key", key.hex()), ("plain", plain[key].hex()), ("sealed", rows[key].hex()))]


def credential():
    fields = [(b"client_id", b"abc"), (b"client_secret", b"")]
    layout = bytes([4, len(fields)])
    for name, value in fields:
        layout += bytes([len(name)]) + name + struct.pack("<I", len(value)) + value
    return layout


def some(value):
    return b"\1" + value


def signed(difference):
    return varint(2 * difference if difference >= 0 else -2 * difference - 1)


def journal_row():
    """Two mints and a refusal of one account, a mint by another key and a reveal of another account."""
    first, second = run(0x10, 12), run(0x50, 12)
    session = lambda number: run(16 * number, 16)
    other = varint(NOW) + varint(4) + varint(18) + text("using a credential") + varint(3) + varint(2) + NONE
    one = b"\1" + signed(NOW) + b"\0" + first + session(1) + b"\0" + signed(900_000)
    one += b"\1" + signed(40) + b"\0" + session(2) + b"\1" + signed(60_000)
    one += b"\0" + varint(len(other)) + other
    two = b"\1" + signed(-10) + b"\1" + second + session(3) + b"\0"
    two += b"\2" + signed(0) + b"\0" + session(4)
    parts = HANDLE + varint(7) + varint(3) + one + run(0xB0, 16) + varint(1) + varint(2) + two
    return encoded(varint(2), parts)


def records():
    """One of each record whose content is not secret and that is not among the rows above."""
    chain_ends = varint(1) + bytes(32) + varint(1) + bytes(32) + varint(0)
    yield "connection", encoded(text("github"), text("main"), varint(2), varint(NOW), varint(NOW), NONE, some(varint(NOW + 3600_000)),
                                varint(1), text("repo"), varint(1), text("repo"), FALSE, FALSE, NONE)
    intent = varint(3) + varint(2) + varint(NOW) + varint(0)
    failure = varint(0) + varint(3) + text("slow_down")
    yield "refresh", encoded(varint(1), varint(3), varint(NOW), some(varint(NOW + 3600_000)), FALSE, some(varint(NOW)), some(intent),
                             NONE, varint(1), some(varint(NOW)), some(failure), some(varint(NOW)), some(varint(1)),
                             some(varint(NOW)))
    yield "due", encoded(varint(300))
    yield "unnamed", encoded(varint(300))
    yield "wheel", encoded(varint(300))
    yield "spent token", encoded(varint(1), varint(NOW))
    yield "tombstone", encoded(varint(1), varint(300))
    yield "environment", encoded(TRUE, chain_ends)
    yield "api key", encoded(run(0x10, 12), varint(0), text("ci"), run(0x40, 32), bytes([0b100001]), some(varint(1) + locator()),
                             varint(NOW), NONE, some(varint(NOW)), NONE, NONE)
    yield "provider", encoded(text("crm"), varint(1), text("api.example.com"), some(varint(0) + text("x-key") + text("")),
                              some(text("token")), FALSE, NONE)
    profile = (FALSE + varint(30_000) + some(varint(60_000)) + some(varint(3_600_000)) + some(varint(10) + varint(600_000)) + varint(64)
               + varint(1) + text("BAD") + varint(2))
    oauth = (text("https://example.com/token") + some(text("https://example.com/authorize")) + NONE + some(text("https://example.com"))
             + TRUE + varint(1) + varint(2) + text("a") + text("b") + b"," + varint(1) + text("prompt") + text("consent") + varint(0)
             + some(text("instance_url")) + profile)
    yield "oauth", encoded(text("crm"), varint(0), NONE, NONE, FALSE, some(oauth))
    yield "oauth client", b"\1" + struct.pack("<H", 3) + b"abc" + b"xyz"


VARIANTS = {
    "Environment": "Test Production",
    "CredentialKind": "ApiKey Basic OAuth2 Custom",
    "Renewal": "None RefreshToken ClientCredentials",
    "ReauthReason": "Revoked InDoubt Expired Reported",
    "RefreshFailure": "Unreachable TimedOut BadAnswer Refused",
    "Spent": "Revoked UsedUp",
    "Injection": "Header Query Basic Bearer",
    "ClientAuth": "Basic Post None",
    "FailureClass": "Transient ClientMisconfigured Revoked",
    "AuditActor": "ApiKey Session Unknown Host Vault",
    "AuditAction": "AccountCreated MetadataChanged AccountDisabled AccountEnabled AccountKeyRotated KeysRewrapped ConnectionAdded "
                   "CredentialReplaced ConnectionRelabelled ConnectionFailed ConnectionRemoved CredentialUsed SecretRevealed "
                   "SessionMinted SessionRevoked SessionUsedUp AllSessionsRevoked Pruned Denied AccountDeleted ApiKeyCreated "
                   "ApiKeyRotated ApiKeyRevoked ProviderSet ProviderRemoved "
                   "ConnectBegun ConnectFailed TokensRefreshed RefreshFailed ReauthRequired ProviderRevocation ConnectionDisabled "
                   "ConnectionEnabled OAuthClientSet",
    "DenialReason": "Forged Expired NotYetValid Revoked OldEpoch AlreadyUsed AccountDisabled OriginNotAllowed NotGranted "
                    "PermissionMissing AccountNotListed TargetNotAllowed",
}


def variant_fields():
    """Each value on lines of its own where it is long, the name repeated."""
    for name, variants in VARIANTS.items():
        words, line = variants.split(), ""
        for word in words:
            if len(line) + len(word) > 90:
                yield name, line
                line = ""
            line = (line + " " + word).strip()
        yield name, line


def sections():
    content = header()
    yield "derivation", [
        ("root key", ROOT_KEY.hex()),
        ("vault id", VAULT.hex()),
        ("vault-key-seal", derive(ROOT_KEY, "vault-key-seal", VAULT).hex()),
        ("wrap", derive(ROOT_KEY, "wrap", VAULT, struct.pack(">I", GENERATION)).hex()),
        ("vault key", VAULT_KEY.hex()),
        ("directory-seal", derive(VAULT_KEY, "directory-seal").hex()),
        ("anchor", derive(VAULT_KEY, "anchor").hex()),
        ("account key", ACCOUNT_KEY.hex()),
        ("account-record", derive(ACCOUNT_KEY, "account-record").hex()),
        ("audit key", AUDIT_KEY.hex()),
        ("audit-chain", derive(AUDIT_KEY, "audit-chain").hex()),
    ]
    yield "envelope", [
        ("key", run(0, 32).hex()),
        ("key version", "7"),
        ("revision", "258"),
        ("nonce", run(0x40, 24).hex()),
        ("part", b"vault".hex()),
        ("part", b"record".hex()),
        ("data", b"a secret of 24 bytes....".hex()),
        ("envelope", envelope(run(0, 32), 7, 258, run(0x40, 24), [b"vault", b"record"], b"a secret of 24 bytes....").hex()),
    ]
    yield "header", [("content", content.hex()), ("header.a", header_file(content).hex())]
    rows, plain, digest = account_rows()
    yield "account", [("environment", "test"), ("handle", HANDLE.hex()), ("digest", digest.hex())] + row_fields(rows, plain)
    plain, rows, marks = directory_rows()
    yield "directory", [("id", ID), ("locator", locator().hex())] + row_fields(rows, plain)
    yield "records", [(name, data.hex()) for name, data in records()]
    yield "journal", [("row", journal_row().hex())]
    yield "variants", list(variant_fields())
    yield "credential", [("layout", credential().hex())]
    directory = directory_anchor(marks)
    yield "anchors", [
        ("shard", shard_anchor().hex()),
        ("directory", directory.hex()),
        ("head", vault_head(directory)),
    ]
    yield "commit log", [(name, data.hex()) for name, data in commit_log()]
    yield "large row", list(large_row())


def blocks():
    for title, fields in sections():
        width = max(len(name) for name, _ in fields) + 2
        lines = "\n".join(f"{name:<{width}}{value}" for name, value in fields)
        yield f"```text\nvector {title}\n{lines}\n```\n"


if __name__ == "__main__":
    if len(sys.argv) == 3 and sys.argv[1] == "--check":
        page = open(sys.argv[2], encoding="utf-8").read()
        missing = [block.splitlines()[1] for block in blocks() if block not in page]
        if missing:
            sys.exit(f"{sys.argv[2]} lacks, or has otherwise: {', '.join(missing)}")
        sys.exit(0)
    print("\n".join(blocks()))
