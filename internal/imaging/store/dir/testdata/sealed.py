"""What restore.py needs for encrypted stores. It needs PyNaCl."""
import base64, hashlib, hmac, json, os, struct, sys

from nacl import bindings, exceptions
from nacl.pwhash import argon2id


def fail(text):
    sys.exit("restore.py: " + text)


def hkdf(key, info):
    prk = hmac.new(bytes(32), key, hashlib.sha256).digest()
    return hmac.new(prk, info.encode() + b"\1", hashlib.sha256).digest()


def unseal(sealed, extra, nonce, key):
    try:
        return bindings.crypto_aead_xchacha20poly1305_ietf_decrypt(sealed, extra, nonce, key)
    except (exceptions.CryptoError, TypeError, ValueError):
        return None


def store_key(store, store_id, secret):
    line = open(secret, "rb").readline().rstrip(b"\r\n")
    kind = "key" if line.startswith(b"MIMEO-STORE-KEY-1 ") else "passphrase"
    for name in os.listdir(os.path.join(store, "keys")):
        info = json.load(open(os.path.join(store, "keys", name)))
        if info["store"] != store_id or info["kind"] != kind:
            continue
        if kind == "key":
            key = hkdf(base64.b64decode(line.split(b" ")[1]), "mimeo-store-key-v1")
        elif info["argon2id"]["threads"] == 1:
            cost = info["argon2id"]
            key = argon2id.kdf(32, line, base64.b64decode(cost["salt"]), opslimit=cost["time"], memlimit=cost["memory"] << 10)
        else:
            continue  # PyNaCl knows one lane only
        extra = "mimeo-store-key-v1\n%s\n%s" % (store_id, name[:-5])
        out = unseal(base64.b64decode(info["sealed"]), extra.encode(), base64.b64decode(info["nonce"]), key)
        if out:
            return out
    fail("the secret opens none of the keys")


def sealed_file(data, name, key):
    if data[:8] != b"MIMEOSF1":
        fail("%s is not sealed" % name)
    out = unseal(data[32:], name.encode(), data[8:32], key)
    return fail("%s is damaged" % name) if out is None else out


def sealed_records(pack, key):
    at = 64
    while True:
        at = pack.find(b"MCE1", at)
        if at < 0:
            return
        n = int.from_bytes(pack[at + 4:at + 8], "little")
        out = unseal(pack[at + 32:at + 32 + n], pack[at:at + 8], pack[at + 8:at + 32], key)
        if out is None:
            at += 1
            continue
        raw, codec = struct.unpack("<IB", out[32:37])
        yield out[:32], codec, raw, out[40:]
        at += 32 + n
