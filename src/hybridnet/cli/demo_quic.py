"""The demo's QUIC client: aioquic on kernel sockets, and the certificate both sides use."""

from __future__ import annotations

import argparse
import asyncio
import datetime
import hashlib
import json
import os
import ssl
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from hybridnet.cli.echo_client import parse_endpoint

SERVER_NAME = "demo.hybridnet.invalid"


def make_certificate(directory: Path) -> tuple[Path, Path]:
    """Write a self-signed certificate, valid for a day, and its key; return both paths."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, SERVER_NAME)])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(SERVER_NAME)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    certificate_path, key_path = directory / "demo.crt", directory / "demo.key"
    certificate_path.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    key_path.touch(mode=0o600)
    key_path.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return certificate_path, key_path


async def check(
    host: str, port: int, ca: Path, *, streams: int, stream_bytes: int
) -> dict[str, object]:
    """Echo ``streams`` streams of random bytes at once and compare; return what happened."""
    from aioquic.asyncio.client import connect  # pyright: ignore[reportUnknownVariableType]
    from aioquic.quic.configuration import QuicConfiguration

    configuration = QuicConfiguration(
        is_client=True,
        alpn_protocols=["echo"],
        server_name=SERVER_NAME,
        verify_mode=ssl.CERT_REQUIRED,
    )
    configuration.load_verify_locations(cafile=str(ca))
    started = time.perf_counter()
    async with connect(host, port, configuration=configuration) as connection:
        handshake_ms = (time.perf_counter() - started) * 1000

        async def echo() -> bool:
            sent = os.urandom(stream_bytes)
            reader, writer = await connection.create_stream()
            writer.write(sent)
            writer.write_eof()
            return hashlib.sha256(await reader.read()).digest() == hashlib.sha256(sent).digest()

        answers = await asyncio.gather(*(echo() for _ in range(streams)))
    return {
        "streams": streams,
        "stream_bytes": stream_bytes,
        "correct": sum(answers),
        "handshake_ms": round(handshake_ms, 2),
        "seconds": round(time.perf_counter() - started, 3),
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Check a QUIC echo server; 0 when every stream came back as sent."""
    parser = argparse.ArgumentParser(prog="python -m hybridnet.cli.demo_quic")
    parser.add_argument("server", metavar="HOST:PORT")
    parser.add_argument("--ca", type=Path, required=True, help="the server's certificate")
    parser.add_argument("--streams", type=int, default=16)
    parser.add_argument("--stream-bytes", type=int, default=65536)
    parser.add_argument("--timeout", type=float, default=10.0, help="seconds (10)")
    args = parser.parse_args(argv)
    host, port = parse_endpoint(args.server)
    checking = check(host, port, args.ca, streams=args.streams, stream_bytes=args.stream_bytes)
    try:
        result = asyncio.run(asyncio.wait_for(checking, args.timeout))
    except (OSError, TimeoutError) as error:
        print(json.dumps({"error": f"{type(error).__name__}: {error}".rstrip(": ")}), flush=True)
        return 1
    print(json.dumps(result), flush=True)
    return 0 if result["correct"] == args.streams else 1


if __name__ == "__main__":
    sys.exit(main())
