"""Writes a captured disk to a raw file, from the store's folder alone: restore.py STORE IMAGE REV FILE [SECRET].

SECRET is the file with the key or the passphrase of an encrypted store. It was written from docs/formats/store.md and
manifest.md and shares no code with the rest. It needs Python 3, the program zstd and for encrypted stores PyNaCl, holds one pack in memory, and is slow. What it cannot read in full, it refuses.
"""
import json, os, struct, subprocess, sys

MASK = 0xFFFFFFFF


def fail(text):
    sys.exit("restore.py: " + text)


# CRC-32C, reflected polynomial 0x1EDC6F41.
TABLE = []
for byte in range(256):
    for _ in range(8):
        byte = byte >> 1 ^ (0x82F63B78 if byte & 1 else 0)
    TABLE.append(byte)


def crc32c(data):
    crc = MASK
    for byte in data:
        crc = TABLE[(crc ^ byte) & 255] ^ crc >> 8
    return crc ^ MASK


# BLAKE3, 256 bits.
IV = (0x6A09E667, 0xBB67AE85, 0x3C6EF372, 0xA54FF53A, 0x510E527F, 0x9B05688C, 0x1F83D9AB, 0x5BE0CD19)
PERMUTE = (2, 6, 3, 10, 7, 0, 4, 13, 1, 11, 12, 5, 9, 14, 15, 8)
MIX = ((0, 4, 8, 12), (1, 5, 9, 13), (2, 6, 10, 14), (3, 7, 11, 15), (0, 5, 10, 15), (1, 6, 11, 12), (2, 7, 8, 13), (3, 4, 9, 14))
START, END, PARENT, ROOT = 1, 2, 4, 8


def compress(cv, words, counter, length, flags):
    v = list(cv) + [*IV[:4], counter & MASK, counter >> 32, length, flags]
    for _ in range(7):
        for i, (a, b, c, d) in enumerate(MIX):
            va, vb = v[a] + v[b] + words[2 * i] & MASK, v[b]
            x = v[d] ^ va
            vd = (x >> 16 | x << 16) & MASK
            vc = v[c] + vd & MASK
            x = vb ^ vc
            vb = (x >> 12 | x << 20) & MASK
            va = va + vb + words[2 * i + 1] & MASK
            x = vd ^ va
            vd = (x >> 8 | x << 24) & MASK
            vc = vc + vd & MASK
            x = vb ^ vc
            v[a], v[b], v[c], v[d] = va, (x >> 7 | x << 25) & MASK, vc, vd
        words = [words[i] for i in PERMUTE]
    return [v[i] ^ v[i + 8] for i in range(8)]


def subtree(data, counter, root):
    if len(data) <= 1024:
        cv, blocks = IV, [data[i:i + 64] for i in range(0, len(data), 64)] or [b""]
        for i, block in enumerate(blocks):
            last = i == len(blocks) - 1
            flags = (START if i == 0 else 0) | ((END | root) if last else 0)
            cv = compress(cv, struct.unpack("<16I", block.ljust(64, b"\0")), counter, len(block), flags)
        return cv
    left = 1024
    while left * 2 < len(data):
        left *= 2
    words = subtree(data[:left], counter, 0) + subtree(data[left:], counter + left // 1024, 0)
    return compress(IV, words, 0, 64, PARENT | root)


def blake3(data):
    return struct.pack("<8I", *subtree(data, 0, ROOT))


def unzstd(data):
    return subprocess.run(["zstd", "-d", "-q", "-c"], input=data, stdout=subprocess.PIPE, check=True).stdout


def uns2(data):
    want, shift, at = 0, 0, 0
    while True:
        byte = data[at]
        at += 1
        want |= (byte & 127) << shift
        shift += 7
        if byte < 128:
            break
    out, offset = bytearray(), 0
    while at < len(data):
        tag, kind = data[at], data[at] & 3
        at += 1
        if kind == 0:
            n = tag >> 2
            if n >= 60:
                extra = n - 59
                n = int.from_bytes(data[at:at + extra], "little")
                at += extra
            out += data[at:at + n + 1]
            at += n + 1
            continue
        if kind == 1:
            n, to = tag >> 2 & 7, (tag & 0xE0) << 3 | data[at]
            at += 1
            if to:
                offset = to
            elif n >= 5:
                extra = n - 4
                n = int.from_bytes(data[at:at + extra], "little") + (4, 1 << 8, 1 << 16)[n - 5]
                at += extra
            n += 4
        else:
            size = 2 if kind == 2 else 4
            n, offset = (tag >> 2) + 1, int.from_bytes(data[at:at + size], "little")
            at += size
        if not 0 < offset <= len(out):
            raise ValueError("S2: a copy from before the start")
        for _ in range(n):
            out.append(out[-offset])
    if len(out) != want:
        raise ValueError("S2: %d bytes, want %d" % (len(out), want))
    return bytes(out)


CODECS = {0: bytes, 1: unzstd, 2: uns2}


def records(pack, number, store_id):
    """Yields ID, codec, raw length and stored bytes of the records that count."""
    head = pack[:64]
    doubt = len(head) < 64 or head[:8] != b"MIMEOPK1" or struct.unpack("<I", head[60:])[0] != crc32c(head[:60]) \
        or struct.unpack("<II", head[8:16]) != (1, number) or head[32:48] != store_id
    at = 0 if doubt else 64
    while at + 56 < len(pack):
        head = pack[at:at + 56]
        raw, stored, codec, data_crc, head_crc = struct.unpack("<IIBxxxII", head[36:])
        data = pack[at + 56:at + 56 + stored]
        good = head[:4] == b"MCK1" and head_crc == crc32c(head[:52]) and 1 <= stored <= raw <= 4 << 20 and codec in CODECS \
            and len(data) == stored and data_crc == crc32c(data)
        if good and (not doubt or decoded(head[4:36], codec, raw, data) is not None):
            yield head[4:36], codec, raw, data
            at += 56 + stored
            continue
        doubt = True
        at = pack.find(b"MCK1", at + 1)
        if at < 0:
            return


def decoded(ident, codec, raw, data):
    try:
        out = CODECS[codec](data)
    except (ValueError, IndexError, subprocess.CalledProcessError):
        return None
    return out if len(out) == raw and blake3(out) == ident else None


def main(store, image, rev, target, secret=""):
    read = lambda *name: open(os.path.join(store, *name), "rb").read()
    form = json.loads(read("format.json"))
    sealed = form["version"] == 2 and form.get("cipher") == "xchacha20-poly1305"
    if (form["format"], form["hash"]) != ("mimeo-store", "blake3") or form["version"] != 1 and not sealed:
        fail("a store of another format: %s" % form)
    record, of_chunks = read("images", image, rev + ".json"), records
    if sealed:
        from sealed import hkdf, sealed_file, sealed_records, store_key
        key = store_key(store, form["id"], secret)
        files, packs = hkdf(key, "mimeo-store-files"), hkdf(key, "mimeo-store-records")
        record = sealed_file(record, "images/%s/%s" % (image, rev), files)
        of_chunks = lambda pack, *_: sealed_records(pack, packs)
    ident = json.loads(record)["id"]
    text = read("manifests", ident + ".json")
    if sealed:
        text = sealed_file(text, "manifests/" + ident, files)
    if blake3(text).hex() != ident:
        fail("the manifest is damaged")
    manifest = json.loads(text)
    if manifest["version"] != 1:
        fail("a manifest of another version")
    chunks = {}  # ID to what decodes it; for a disk larger than memory, this would be pack and offset
    for name in sorted(os.listdir(os.path.join(store, "packs"))):
        if name.endswith(".pack"):
            for chunk, *rest in of_chunks(read("packs", name), int(name[:8], 16), bytes.fromhex(form["id"])):
                chunks[chunk] = rest

    def get(chunk):
        out = decoded(chunk, *chunks[chunk]) if chunk in chunks else None
        if out is None:
            fail("chunk %s is missing or damaged" % chunk.hex())
        return out

    seen = dict.fromkeys(("entries", "used", "zero", "chunks"), 0)
    end = 0
    with open(target, "wb") as disk:
        disk.truncate(manifest["disk"]["size"])
        for segment in manifest["content"]["segments"]:
            entries = get(bytes.fromhex(segment["id"]))
            if len(entries) != segment["len"]:
                fail("a segment of another length")
            for at in range(0, len(entries), 48):
                off, length = struct.unpack("<QQ", entries[at:at + 16])
                zero, length = length >> 63, length & (1 << 63) - 1
                if off < end or off + length > manifest["disk"]["size"]:
                    fail("an entry that lies wrong")
                end = off + length
                seen["entries"] += 1
                seen["used"] += length
                if zero:
                    seen["zero"] += length
                    continue
                seen["chunks"] += 1
                data = get(entries[at + 16:at + 48])
                if len(data) != length:
                    fail("a chunk of another length than its entry")
                disk.seek(off)
                disk.write(data)
    if any(manifest["content"][key] != n for key, n in seen.items()):
        fail("the entries do not add up: %s" % seen)


if __name__ == "__main__":
    main(*sys.argv[1:])
