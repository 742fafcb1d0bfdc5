#!/usr/bin/env python3
"""Writes the known-answer vectors beside this script. See README.md for the meaning of each field.

It shares no code with the gateway: HMAC and hashes are Python's hashlib, ciphers are the `cryptography` package
(OpenSSL), SipHash and the TLS 1.0 PRF are written out here and checked against published values before anything is
written. All inputs are fixed, so that each run writes the same bytes.
"""

import base64
import hashlib
import hmac
import ipaddress
import json
import pathlib
import struct
import sys

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305

HERE = pathlib.Path(__file__).resolve().parent
PING = bytes.fromhex("2a187bf3641eb4cb07ed2d0a981fc748")
DIGESTS = {"SHA1": "sha1", "SHA256": "sha256", "SHA384": "sha384", "SHA512": "sha512"}
AEADS = {"AES-128-GCM": (16, AESGCM), "AES-256-GCM": (32, AESGCM), "CHACHA20-POLY1305": (32, ChaCha20Poly1305)}

CLIENT_SID = bytes.fromhex("c1c2c3c4c5c6c7c8")
SERVER_SID = bytes.fromhex("5152535455565758")
# The wrapping packet-id's time: 2023-11-14 22:13:20 UTC.
TIME = 1_700_000_000


# Primitives.

def stream(label, length):
    """Bytes without structure that are the same in each run."""
    return hashlib.shake_256(b"tessera vectors: " + label.encode()).digest(length)


def mac(digest, key, data):
    return hmac.new(key, data, DIGESTS[digest]).digest()


def aes_256_ctr(key, iv, data):
    encryptor = Cipher(algorithms.AES(key), modes.CTR(iv)).encryptor()
    return encryptor.update(data) + encryptor.finalize()


def xor(a, b):
    assert len(a) == len(b)
    return bytes(x ^ y for x, y in zip(a, b))


def p_hash(digest, secret, seed, length):
    out, a = b"", seed
    while len(out) < length:
        a = hmac.new(secret, a, digest).digest()
        out += hmac.new(secret, a + seed, digest).digest()
    return out[:length]


def tls1_prf(secret, label_and_seed, length):
    """RFC 2246 section 5; the two halves share a byte when the secret is odd."""
    half = (len(secret) + 1) // 2
    md5 = p_hash("md5", secret[:half], label_and_seed, length)
    sha1 = p_hash("sha1", secret[len(secret) - half:], label_and_seed, length)
    return xor(md5, sha1)


def siphash_2_4(key, data):
    mask = (1 << 64) - 1
    k0, k1 = struct.unpack("<QQ", key)
    v = [k0 ^ 0x736F6D6570736575, k1 ^ 0x646F72616E646F6D, k0 ^ 0x6C7967656E657261, k1 ^ 0x7465646279746573]

    def rotl(x, n):
        return ((x << n) | (x >> (64 - n))) & mask

    def rounds(n):
        for _ in range(n):
            v[0] = (v[0] + v[1]) & mask
            v[1] = rotl(v[1], 13) ^ v[0]
            v[0] = rotl(v[0], 32)
            v[2] = (v[2] + v[3]) & mask
            v[3] = rotl(v[3], 16) ^ v[2]
            v[0] = (v[0] + v[3]) & mask
            v[3] = rotl(v[3], 21) ^ v[0]
            v[2] = (v[2] + v[1]) & mask
            v[1] = rotl(v[1], 17) ^ v[2]
            v[2] = rotl(v[2], 32)

    whole = len(data) // 8 * 8
    for (word,) in struct.iter_unpack("<Q", data[:whole]):
        v[3] ^= word
        rounds(2)
        v[0] ^= word
    last = data[whole:].ljust(7, b"\0") + bytes([len(data) & 0xFF])
    (word,) = struct.unpack("<Q", last)
    v[3] ^= word
    rounds(2)
    v[0] ^= word
    v[2] ^= 0xFF
    rounds(4)
    return struct.pack("<Q", v[0] ^ v[1] ^ v[2] ^ v[3])


# OpenVPN's layouts.

def pem(name, body, width):
    lines = [body[i:i + width] for i in range(0, len(body), width)]
    return "\n".join([f"-----BEGIN {name}-----", *lines, f"-----END {name}-----", ""])


def halves(key):
    """The four 64-byte parts of a 256-byte key."""
    assert len(key) == 256
    return {
        "keys0_cipher": key[0:64],
        "keys0_hmac": key[64:128],
        "keys1_cipher": key[128:192],
        "keys1_hmac": key[192:256],
    }


def control_tail(acks, remote_sid, message_id, payload):
    """What follows session id and wrapping. `message_id` is None for P_ACK_V1."""
    tail = bytes([len(acks)]) + b"".join(struct.pack(">I", ack) for ack in acks)
    if acks:
        tail += remote_sid
    if message_id is not None:
        tail += struct.pack(">I", message_id)
    return tail + payload


def control_packets(opcode_reset=7):
    """(name, sender, opcode, key_id, own sid, acks, remote sid, message id, payload)"""
    return [
        ("reset_client", "client", opcode_reset, 0, CLIENT_SID, [], None, 0, b""),
        ("reset_server", "server", 8, 0, SERVER_SID, [0], CLIENT_SID, 0, b""),
        ("control_client", "client", 4, 0, CLIENT_SID, [0], SERVER_SID, 1, stream("client hello", 217)),
        ("control_server", "server", 4, 3, SERVER_SID, [1, 2, 3, 4], CLIENT_SID, 2, stream("server hello", 1000)),
        ("soft_reset_server", "server", 3, 1, SERVER_SID, [], None, 0, b""),
        ("ack_client", "client", 5, 0, CLIENT_SID, [1, 2, 3], SERVER_SID, None, b""),
    ]


def wrap_tls_auth(digest, key, header, pid, tail):
    replay = struct.pack(">II", pid, TIME)
    return header + mac(digest, key[:hashlib.new(DIGESTS[digest]).digest_size], replay + header + tail) + replay + tail


def wrap_tls_crypt(cipher_key, hmac_key, header, pid, tail):
    front = header + struct.pack(">II", pid, TIME)
    tag = mac("SHA256", hmac_key[:32], front + tail)
    return front + tag + aes_256_ctr(cipher_key[:32], tag[:16], tail)


def make_wkc(server_key, client_key, metadata):
    length = struct.pack(">H", 32 + len(client_key) + len(metadata) + 2)
    tag = mac("SHA256", server_key[64:96], length + client_key + metadata)
    return tag + aes_256_ctr(server_key[0:32], tag[:16], client_key + metadata) + length


def packet_fields(packet, pid):
    name, sender, opcode, key_id, own, acks, remote, message_id, payload = packet
    return {
        "name": name,
        "sender": sender,
        "opcode": opcode,
        "key_id": key_id,
        "session_id": own,
        "acks": acks,
        "remote_session_id": remote,
        "message_id": message_id,
        "payload": payload,
        "packet_id": pid,
        "time": TIME,
    }


# The files.

STATIC_KEY = stream("static key", 256)


def static_key():
    body = STATIC_KEY.hex()
    plain = pem("OpenVPN Static key V1", body, 32)
    commented = "#\n# 2048 bit OpenVPN static key\n#\n" + plain
    short = pem("OpenVPN Static key V1", body[:-2], 32)
    return {
        "valid": [
            {"name": "plain", "pem": plain, "key": STATIC_KEY, **halves(STATIC_KEY)},
            {"name": "comments_before", "pem": commented, "key": STATIC_KEY, **halves(STATIC_KEY)},
            {"name": "crlf", "pem": plain.replace("\n", "\r\n"), "key": STATIC_KEY, **halves(STATIC_KEY)},
            {"name": "upper_case", "pem": plain.replace(body[:32], body[:32].upper()), "key": STATIC_KEY,
             **halves(STATIC_KEY)},
        ],
        "invalid": [
            {"name": "one_byte_short", "pem": short},
            {"name": "one_byte_long", "pem": pem("OpenVPN Static key V1", body + "00", 32)},
            {"name": "not_hex", "pem": plain.replace(body[:4], "zzzz", 1)},
            {"name": "no_end", "pem": plain.replace("-----END OpenVPN Static key V1-----\n", "")},
            {"name": "other_marker", "pem": plain.replace("Static key V1", "Static key V9")},
            {"name": "empty", "pem": ""},
        ],
    }


def tls_auth():
    parts = halves(STATIC_KEY)
    vectors = []
    for digest in DIGESTS:
        for server_direction, client_direction in ((None, None), (0, 1), (1, 0)):
            for pid, packet in enumerate(control_packets(), 1):
                fields = packet_fields(packet, pid)
                direction = server_direction if fields["sender"] == "server" else client_direction
                key = parts["keys1_hmac" if direction == 1 else "keys0_hmac"]
                header = bytes([fields["opcode"] << 3 | fields["key_id"]]) + fields["session_id"]
                tail = control_tail(fields["acks"], fields["remote_session_id"], fields["message_id"],
                                    fields["payload"])
                vectors.append({
                    "digest": digest,
                    "sender_direction": direction,
                    "receiver_direction": client_direction if fields["sender"] == "server" else server_direction,
                    **fields,
                    "plain": header + tail,
                    "wrapped": wrap_tls_auth(digest, key, header, pid, tail),
                })
    return {"key": STATIC_KEY, "vectors": vectors}


def crypt_vectors(key, packets, start=1, suffix=b""):
    parts = halves(key)
    vectors = []
    for pid, packet in enumerate(packets, start):
        fields = packet_fields(packet, pid)
        which = "keys0" if fields["sender"] == "server" else "keys1"
        header = bytes([fields["opcode"] << 3 | fields["key_id"]]) + fields["session_id"]
        tail = control_tail(fields["acks"], fields["remote_session_id"], fields["message_id"], fields["payload"])
        wrapped = wrap_tls_crypt(parts[which + "_cipher"], parts[which + "_hmac"], header, pid, tail)
        vectors.append({**fields, "plain": header + tail, "wrapped": wrapped, "datagram": wrapped + suffix})
    return vectors


def tls_crypt():
    return {"key": STATIC_KEY, "vectors": crypt_vectors(STATIC_KEY, control_packets())}


def tls_crypt_v2():
    server_key = stream("tls-crypt-v2 server key", 128)
    clients = []
    for name, metadata in (
        ("no_metadata", b""),
        ("user", b"\x00" + "user=alice;dépôt".encode()),
        ("user_empty", b"\x00"),
        ("user_longest", b"\x00" + stream("metadata", 1024 - 32 - 256 - 2 - 1)),
        ("timestamp_zero", b"\x01" + struct.pack(">q", 0)),
        ("timestamp", b"\x01" + struct.pack(">q", TIME)),
    ):
        client_key = stream("tls-crypt-v2 client key " + name, 256)
        wkc = make_wkc(server_key, client_key, metadata)
        assert len(wkc) <= 1024
        early = 0x0F000001
        reset = ("reset_client_v3", "client", 10, 0, CLIENT_SID, [], None, 0, b"")
        hello = ("wkc_v1", "client", 11, 0, CLIENT_SID, [0], SERVER_SID, 1, stream("client hello", 217))
        hello_empty = ("wkc_v1_empty", "client", 11, 0, CLIENT_SID, [0], SERVER_SID, 1, b"")
        reply = ("reset_server_resend_wkc", "server", 8, 0, SERVER_SID, [0], CLIENT_SID, 0,
                 struct.pack(">HHH", 1, 2, 1))
        clients.append({
            "name": name,
            "metadata_type": metadata[0] if metadata else None,
            "metadata": metadata[1:] if metadata else None,
            "timestamp": struct.unpack(">q", metadata[1:])[0] if metadata[:1] == b"\x01" else None,
            "client_key": client_key,
            "wkc": wkc,
            "client_pem": pem("OpenVPN tls-crypt-v2 client key", base64.b64encode(client_key + wkc).decode(), 64),
            "vectors": [
                *crypt_vectors(client_key, [reset], early, wkc),
                *crypt_vectors(client_key, [reset], 1, wkc),
                *crypt_vectors(client_key, [hello, hello_empty], early + 1, wkc),
                *crypt_vectors(client_key, [reply]),
                *crypt_vectors(client_key, control_packets()[3:], 2),
            ],
        })
    good = clients[1]["wkc"]
    invalid = [
        {"name": "tag_bit", "wkc": bytes([good[0] ^ 1]) + good[1:]},
        {"name": "key_bit", "wkc": good[:40] + bytes([good[40] ^ 0x80]) + good[41:]},
        {"name": "metadata_bit", "wkc": good[:-3] + bytes([good[-3] ^ 1]) + good[-2:]},
        {"name": "length_low", "wkc": good[:-2] + struct.pack(">H", len(good) - 1)},
        {"name": "length_high", "wkc": good[:-2] + struct.pack(">H", len(good) + 1)},
        {"name": "length_zero", "wkc": good[:-2] + b"\0\0"},
        {"name": "one_byte", "wkc": b"\0"},
        {"name": "empty", "wkc": b""},
        {"name": "key_short", "wkc": make_wkc(server_key, stream("short", 255), b"")},
        {"name": "other_server", "wkc": make_wkc(stream("other server", 128), stream("k", 256), b"")},
    ]
    return {
        "server_key": server_key,
        "server_pem": pem("OpenVPN tls-crypt-v2 server key", base64.b64encode(server_key).decode(), 64),
        "clients": clients,
        "invalid": invalid,
    }


def prf():
    raw = []
    for secret_len, label, seed_len, out_len in (
        (48, "test label", 64, 104), (47, "odd secret", 64, 100), (1, "tiny", 1, 1), (48, "OpenVPN key expansion", 80, 256),
    ):
        secret, seed = stream(f"prf secret {secret_len}", secret_len), stream(f"prf seed {seed_len}", seed_len)
        raw.append({"secret": secret, "label": label, "seed": seed, "output": tls1_prf(secret, label.encode() + seed, out_len)})
    # The value that TLS implementations have passed around as the test of this function.
    raw.append({
        "secret": b"\xab" * 48,
        "label": "PRF Testvector",
        "seed": b"\xcd" * 64,
        "output": tls1_prf(b"\xab" * 48, b"PRF Testvector" + b"\xcd" * 64, 104),
    })
    sessions = []
    for n in range(3):
        pre_master = stream(f"pre-master {n}", 48)
        c1, c2, s1, s2 = (stream(f"{who} {n}", 32) for who in ("client 1", "client 2", "server 1", "server 2"))
        c_sid, s_sid = stream(f"client sid {n}", 8), stream(f"server sid {n}", 8)
        master = tls1_prf(pre_master, b"OpenVPN master secret" + c1 + s1, 48)
        keys = tls1_prf(master, b"OpenVPN key expansion" + c2 + s2 + c_sid + s_sid, 256)
        sessions.append({
            "pre_master": pre_master,
            "client_random1": c1,
            "client_random2": c2,
            "server_random1": s1,
            "server_random2": s2,
            "client_session_id": c_sid,
            "server_session_id": s_sid,
            "master": master,
            "keys": keys,
        })
    return {"prf": raw, "sessions": sessions}


def data_channel():
    keys = stream("data keys", 256)
    parts = halves(keys)
    splits = []
    for cipher, (key_len, _) in AEADS.items():
        splits.append({
            "cipher": cipher,
            "client_encrypts": parts["keys0_cipher"][:key_len],
            "client_implicit_iv": parts["keys0_hmac"][:8],
            "server_encrypts": parts["keys1_cipher"][:key_len],
            "server_implicit_iv": parts["keys1_hmac"][:8],
        })
    payloads = [("one", b"\x45"), ("ping", PING)]
    payloads += [(f"bytes_{n}", stream(f"payload {n}", n)) for n in (15, 16, 17, 64, 1400, 9000)]
    vectors = []
    for cipher, (key_len, aead) in AEADS.items():
        for sender, which in (("client", "keys0"), ("server", "keys1")):
            key, implicit = parts[which + "_cipher"][:key_len], parts[which + "_hmac"][:8]
            for n, (name, payload) in enumerate(payloads):
                key_id = n % 8
                peer_id = (0, 1, 0x010203, 0xFFFFFE, 0xFFFFFF)[n % 5]
                pid = (1, 2, 0x01020304, 0xFEFFFFFF, 0xFFFFFFFF)[n % 5]
                header = struct.pack(">I", (9 << 3 | key_id) << 24 | peer_id)
                ad, nonce = header + struct.pack(">I", pid), struct.pack(">I", pid) + implicit
                sealed = aead(key).encrypt(nonce, payload, ad)
                ciphertext, tag = sealed[:-16], sealed[-16:]
                vectors.append({
                    "name": name,
                    "cipher": cipher,
                    "sender": sender,
                    "key_id": key_id,
                    "peer_id": peer_id,
                    "packet_id": pid,
                    "ad": ad,
                    "nonce": nonce,
                    "tag": tag,
                    "payload": payload,
                    "packet": ad + tag + ciphertext,
                })
    return {"keys": keys, **parts, "splits": splits, "vectors": vectors}


def dynamic_tls_crypt():
    exported = stream("dynamic tls-crypt export", 256)
    cases = []
    for name, configured in (("no_configured_key", None), ("configured_key", STATIC_KEY)):
        key = xor(exported, configured) if configured else exported
        packets = [p for p in control_packets() if p[0] == "soft_reset_server"]
        packets.append(("control_client_key1", "client", 4, 1, CLIENT_SID, [0], SERVER_SID, 1, stream("renegotiate", 300)))
        cases.append({
            "name": name,
            "exported": exported,
            "configured": configured,
            "key": key,
            "vectors": crypt_vectors(key, packets),
        })
    return {"cases": cases}


def km2_string(text):
    """None stands for an empty string, which has no terminating NUL."""
    if text is None:
        return b"\0\0"
    data = text.encode() + b"\0"
    return struct.pack(">H", len(data)) + data


def key_method_2():
    options = ("V4,dev-type tun,link-mtu 1549,tun-mtu 1500,proto UDPv4,cipher AES-256-GCM,auth [null-digest],"
               "keysize 256,key-method 2,tls-client")
    peer_info = "IV_VER=2.6.14\nIV_PLAT=linux\nIV_TCPNL=1\nIV_MTU=1600\nIV_NCP=2\nIV_CIPHERS=AES-256-GCM:AES-128-GCM:CHACHA20-POLY1305\nIV_PROTO=990\n"
    pre_master, c1, c2 = stream("km2 pre-master", 48), stream("km2 c1", 32), stream("km2 c2", 32)
    s1, s2 = stream("km2 s1", 32), stream("km2 s2", 32)
    long = "x" * 127
    messages = []

    def add(name, sender, fields):
        """`fields`: options, username, password, peer_info; a shorter list ends the message early."""
        head = b"\0\0\0\0\x02" + (pre_master + c1 + c2 if sender == "client" else s1 + s2)
        keys = ("options", "username", "password", "peer_info")
        texts = dict(zip(keys, fields))
        messages.append({
            "name": name,
            "sender": sender,
            "pre_master": pre_master if sender == "client" else None,
            "random1": c1 if sender == "client" else s1,
            "random2": c2 if sender == "client" else s2,
            **{key: Text(texts[key]) if texts.get(key) is not None else None for key in keys},
            "fields_present": len(fields),
            "encoded": head + b"".join(km2_string(text) for text in fields),
        })

    add("client", "client", [options, "alice", "correct horse", peer_info])
    add("client_utf8", "client", [options, "älice", "pässwörd €", peer_info])
    add("client_no_login", "client", [options, None, None, peer_info])
    add("client_longest_login", "client", [options, long, long, peer_info])
    add("client_no_peer_info", "client", [options, "alice", "correct horse"])
    add("client_options_only", "client", [options])
    add("client_empty_peer_info", "client", [options, "alice", "correct horse", None])
    add("server", "server", [options.replace("tls-client", "tls-server"), None, None, None])
    add("server_options_only", "server", [options.replace("tls-client", "tls-server")])

    whole = messages[0]["encoded"]
    first = 5 + 48 + 64
    invalid = [
        {"name": "empty", "sender": "client", "encoded": b""},
        {"name": "first_word", "sender": "client", "encoded": b"\0\0\0\1" + whole[4:]},
        {"name": "method_1", "sender": "client", "encoded": b"\0\0\0\0\1" + whole[5:]},
        {"name": "no_randoms", "sender": "client", "encoded": whole[:5]},
        {"name": "random_cut", "sender": "client", "encoded": whole[:first - 1]},
        {"name": "no_options", "sender": "client", "encoded": whole[:first]},
        {"name": "options_length_cut", "sender": "client", "encoded": whole[:first + 1]},
        {"name": "options_cut", "sender": "client", "encoded": whole[:first + 10]},
        {"name": "options_length_beyond", "sender": "client", "encoded": whole[:first] + b"\xff\xff" + whole[first + 2:]},
    ]
    return {"messages": messages, "invalid": invalid}


def siphash():
    vectors = []
    key = bytes(range(16))
    for n in (0, 1, 7, 8, 15, 63):
        vectors.append({"name": f"counting_{n}", "key": key, "input": bytes(range(n)), "output": siphash_2_4(key, bytes(range(n)))})
    cookie_key = stream("cookie key", 16)
    for name, address, port, slot in (("cookie_v4", "192.0.2.7", 51820, 56_105_610), ("cookie_v6", "2001:db8::7", 1194, 1)):
        data = struct.pack(">I", slot) + ipaddress.ip_address(address).packed + struct.pack(">H", port) + CLIENT_SID
        vectors.append({"name": name, "key": cookie_key, "input": data, "output": siphash_2_4(cookie_key, data)})
    return {"vectors": vectors}


class Text(str):
    """A string that is text in the JSON, too."""


def plain_json(value):
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, dict):
        return {key: plain_json(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain_json(item) for item in value]
    return value


def check_primitives():
    """Published values, so that a mistake here cannot become a vector."""
    sip = siphash_2_4(bytes(range(16)), bytes(range(15)))
    assert sip == struct.pack("<Q", 0xA129CA6149BE45E5), sip.hex()  # the SipHash paper, appendix A
    prf_value = tls1_prf(b"\xab" * 48, b"PRF Testvector" + b"\xcd" * 64, 104).hex()
    assert prf_value.startswith("d3d4d1e349b5d515044666d51de32bab258cb521b6b053463e354832fd976754"), prf_value
    case_1 = hmac.new(b"\x0b" * 20, b"Hi There", "sha256").hexdigest()  # RFC 4231
    assert case_1 == "b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7"


FILES = {
    "static_key": static_key,
    "tls_auth": tls_auth,
    "tls_crypt": tls_crypt,
    "tls_crypt_v2": tls_crypt_v2,
    "prf": prf,
    "data_channel": data_channel,
    "dynamic_tls_crypt": dynamic_tls_crypt,
    "key_method_2": key_method_2,
    "siphash": siphash,
}


def main():
    """`make.py` writes the files; `make.py --check` says which differ and ends with 1."""
    check_primitives()
    differ = []
    for name, build in FILES.items():
        path = HERE / f"{name}.json"
        text = json.dumps(plain_json(build()), indent=1, ensure_ascii=True) + "\n"
        if sys.argv[1:] == ["--check"]:
            if not path.is_file() or path.read_text() != text:
                differ.append(path.name)
        else:
            path.write_text(text)
    if differ:
        sys.exit(f"differ from what make.py makes: {', '.join(differ)}")


if __name__ == "__main__":
    main()
