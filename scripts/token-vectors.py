#!/usr/bin/env python3
"""Prints the vectors of docs/token-format.md. Shares no code with the library: the cipher is written out from
draft-irtf-cfrg-xchacha-03 and RFC 8439, the format from the document. `--check FILE` exits with 1 unless FILE has them all."""

import base64
import struct
import sys

# --- XChaCha20-Poly1305 ---


def rotl(x, n):
    return ((x << n) | (x >> (32 - n))) & 0xFFFFFFFF


def rounds(state):
    s = list(state)
    for _ in range(10):
        for a, b, c, d in ((0, 4, 8, 12), (1, 5, 9, 13), (2, 6, 10, 14), (3, 7, 11, 15),
                           (0, 5, 10, 15), (1, 6, 11, 12), (2, 7, 8, 13), (3, 4, 9, 14)):
            s[a] = (s[a] + s[b]) & 0xFFFFFFFF
            s[d] = rotl(s[d] ^ s[a], 16)
            s[c] = (s[c] + s[d]) & 0xFFFFFFFF
            s[b] = rotl(s[b] ^ s[c], 12)
            s[a] = (s[a] + s[b]) & 0xFFFFFFFF
            s[d] = rotl(s[d] ^ s[a], 8)
            s[c] = (s[c] + s[d]) & 0xFFFFFFFF
            s[b] = rotl(s[b] ^ s[c], 7)
    return s


def initial(key, sixteen):
    return list(struct.unpack("<4I", b"expand 32-byte k") + struct.unpack("<8I", key) + struct.unpack("<4I", sixteen))


def hchacha20(key, nonce16):
    s = rounds(initial(key, nonce16))
    return struct.pack("<8I", *(s[:4] + s[12:]))


def chacha20(key, nonce12, counter, data):
    out = bytearray()
    for at in range(0, len(data), 64):
        start = initial(key, struct.pack("<I", counter + at // 64) + nonce12)
        block = struct.pack("<16I", *((a + b) & 0xFFFFFFFF for a, b in zip(start, rounds(start))))
        out += bytes(a ^ b for a, b in zip(data[at:at + 64], block))
    return bytes(out)


def poly1305(key, message):
    r = int.from_bytes(key[:16], "little") & 0x0FFFFFFC0FFFFFFC0FFFFFFC0FFFFFFF
    total = 0
    for at in range(0, len(message), 16):
        total = (total + int.from_bytes(message[at:at + 16] + b"\x01", "little")) * r % ((1 << 130) - 5)
    return ((total + int.from_bytes(key[16:], "little")) & ((1 << 128) - 1)).to_bytes(16, "little")


def seal(key, nonce24, aad, plaintext):
    subkey, nonce12 = hchacha20(key, nonce24[:16]), bytes(4) + nonce24[16:]
    ciphertext = chacha20(subkey, nonce12, 1, plaintext)
    pad = lambda data: data + bytes(-len(data) % 16)
    lengths = struct.pack("<QQ", len(aad), len(ciphertext))
    return ciphertext + poly1305(chacha20(subkey, nonce12, 0, bytes(32)), pad(aad) + pad(ciphertext) + lengths)


# --- the format ---

ENVIRONMENTS = {"test": ("st_test_", 1), "live": ("st_live_", 2)}


def b64(data):
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def claims(id, issued, expires, epoch, grants, flags, providers=(), origins=(), subject=None):
    out = id + struct.pack(">QQQBBBB", issued, expires, epoch, grants, flags, len(providers), len(origins))
    for provider in providers:
        out += struct.pack(">B", len(provider)) + provider
    for text in list(origins) + ([subject] if subject is not None else []):
        out += struct.pack(">H", len(text)) + text
    return out


def raw_token(v, version=1):
    aad = b"anchorhold session token" + bytes([version]) + v["vault"] + bytes([ENVIRONMENTS[v["environment"]][1]]) + v["handle"]
    return bytes([version]) + v["handle"] + v["nonce"] + seal(v["key"], v["nonce"], aad, v["claims"])


def token(v, version=1):
    return ENVIRONMENTS[v["environment"]][0] + b64(raw_token(v, version))


def run(first, count):
    return bytes(range(first, first + count))


ISSUED = 1_700_000_000_000
BASE = dict(key=run(0, 32), vault=run(0x20, 16), environment="test", handle=run(0x30, 16), nonce=run(0x40, 24))
SMALL = claims(run(0x60, 16), ISSUED, ISSUED + 900_000, 0, 0b001, 0)
FULL = claims(run(0x70, 16), ISSUED, ISSUED + 86_400_000, 7, 0b111, 0b11, (b"github", b"slack"),
              (b"http://localhost:3000", b"https://app.example.com"), "Zoë".encode())
VECTORS = [
    dict(BASE, claims=SMALL),
    dict(BASE, environment="live", handle=run(0x50, 16), nonce=run(0x80, 24), claims=FULL),
]


def refused():
    good = token(VECTORS[0])
    body = raw_token(VECTORS[0])
    of = lambda data: "st_test_" + b64(data)
    forged = lambda data: token(dict(BASE, claims=data))
    with_lists = lambda providers=(), origins=(): claims(run(0x60, 16), ISSUED, ISSUED + 900_000, 0, 1, 0, providers, origins)
    yield "environment renamed", good.replace("st_test_", "st_live_")
    yield "prefix in capitals", good.replace("st_test_", "ST_TEST_")
    yield "padded", good + "=" * (-len(good[8:]) % 4 or 4)
    # One spare bit of the last character set: the same bytes, another text.
    spare = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    yield "bits set that stand for nothing", good[:-1] + spare[spare.index(good[-1]) | 1]
    yield "standard alphabet", "st_test_" + base64.b64encode(body).rstrip(b"=").decode()
    yield "unknown version", token(VECTORS[0], version=2)
    yield "handle changed", of(body[:1] + bytes([body[1] ^ 1]) + body[2:])
    yield "nonce changed", of(body[:17] + bytes([body[17] ^ 1]) + body[18:])
    yield "claims changed", of(body[:41] + bytes([body[41] ^ 1]) + body[42:])
    yield "tag changed", of(body[:-1] + bytes([body[-1] ^ 1]))
    yield "cut short", of(body[:-1])
    yield "lengthened", of(body + b"\0")
    yield "another account's key", token(dict(VECTORS[0], key=run(1, 32)))
    yield "another vault", token(dict(VECTORS[0], vault=run(0x21, 16)))
    # From here on the seal is right and the claims are not what the vault writes.
    yield "a byte after the claims", forged(SMALL + b"\0")
    yield "unknown grant", forged(claims(run(0x60, 16), ISSUED, ISSUED + 900_000, 0, 0b1000, 0))
    yield "unknown flag", forged(claims(run(0x60, 16), ISSUED, ISSUED + 900_000, 0, 1, 0b100))
    yield "good for longer than 24 hours", forged(claims(run(0x60, 16), ISSUED, ISSUED + 86_400_001, 0, 1, 0))
    yield "expires before it was issued", forged(claims(run(0x60, 16), ISSUED, ISSUED - 1, 0, 1, 0))
    yield "providers out of order", forged(with_lists(providers=(b"slack", b"github")))
    yield "provider repeated", forged(with_lists(providers=(b"slack", b"slack")))
    yield "provider that is no name", forged(with_lists(providers=(b"Git Hub",)))
    yield "origin in another spelling", forged(with_lists(origins=(b"https://app.example.com:443",)))
    yield "origin over plain http", forged(with_lists(origins=(b"http://app.example.com",)))
    yield "17 providers", forged(with_lists(providers=tuple(b"p%02d" % n for n in range(17))))
    yield "subject flag without subject", forged(claims(run(0x60, 16), ISSUED, ISSUED + 900_000, 0, 1, 0b10))
    yield "empty subject", forged(claims(run(0x60, 16), ISSUED, ISSUED + 900_000, 0, 1, 0b10, subject=b""))
    yield "subject that is not UTF-8", forged(claims(run(0x60, 16), ISSUED, ISSUED + 900_000, 0, 1, 0b10, subject=b"\xff"))


def sections():
    for number, v in enumerate(VECTORS, 1):
        fields = [("key", v["key"].hex()), ("vault", v["vault"].hex()), ("environment", v["environment"]),
                  ("handle", v["handle"].hex()), ("nonce", v["nonce"].hex()), ("claims", v["claims"].hex()), ("token", token(v))]
        yield "```text\nvector {}\n{}\n```".format(number, "\n".join("{:<12} {}".format(*field) for field in fields))
    yield "```text\nrefused\n{}\n```".format("\n".join("{}: {}".format(*case) for case in refused()))


# draft-irtf-cfrg-xchacha-03, A.3.1: the cipher above is the published one.
SUNSCREEN = (b"Ladies and Gentlemen of the class of '99: If I could offer you only one tip for the future, "
             b"sunscreen would be it.")
TAG = seal(run(0x80, 32), run(0x40, 24), bytes.fromhex("50515253c0c1c2c3c4c5c6c7"), SUNSCREEN)[-16:]
assert TAG.hex() == "c0875924c1c7987947deafd8780acf49", TAG.hex()

if __name__ == "__main__":
    if sys.argv[1:2] == ["--check"]:
        document = open(sys.argv[2], encoding="utf-8").read()
        sys.exit(0 if all(section in document for section in sections()) else "the document's vectors are not these")
    print("\n\n".join(sections()))
