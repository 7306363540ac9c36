"""Authorities, certificates and keys for tests, made with openssl (keys are of the kind P-256: they take no time)."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import NamedTuple

P256 = "EC -pkeyopt ec_paramgen_curve:P-256"
EXTENSIONS = "subjectAltName=IP:127.0.0.1\nextendedKeyUsage=serverAuth,clientAuth\n"


class Pair(NamedTuple):
    """The paths of a certificate and its key."""

    certificate: str
    key: str


class Certificates:
    """An authority, and what it has signed, in one folder."""

    def __init__(self, folder: Path, is_signed: bool = False) -> None:
        self.folder = folder
        self.ca, self.server, self.client = self._pair("ca"), self._pair("server"), self._pair("client")
        if not is_signed:
            self.authority("ca")
            self.sign("server")
            self.sign("client")

    def copy(self, folder: Path) -> Certificates:
        """The same authority and certificates in another folder."""
        shutil.copytree(self.folder, folder, dirs_exist_ok=True)
        return Certificates(folder, is_signed=True)

    def authority(self, name: str) -> Pair:
        """A certificate that may sign others; one of this name is replaced."""
        pair = self._pair(name)
        self._openssl(f"genpkey -algorithm {P256} -out {pair.key}")
        self._openssl(f"req -x509 -new -key {pair.key} -subj /CN={name} -days 9 -out {pair.certificate}")
        return pair

    def sign(self, name: str, authority: str = "ca", kind: str = P256) -> Pair:
        """A certificate for 127.0.0.1, as server and as client; one of this name is replaced."""
        pair, signer = self._pair(name), self._pair(authority)
        request, extensions = self.folder / f"{name}.csr", self.folder / "extensions"
        extensions.write_text(EXTENSIONS)
        self._openssl(f"genpkey -algorithm {kind} -out {pair.key}")
        self._openssl(f"req -new -key {pair.key} -subj /CN={name} -out {request}")
        self._openssl(
            f"x509 -req -in {request} -CA {signer.certificate} -CAkey {signer.key} -CAcreateserial -days 9"
            f" -extfile {extensions} -out {pair.certificate}"
        )
        return pair

    def variables(self) -> dict[str, str]:
        """The settings of a client, as environment variables."""
        return {
            "ETCD_CA_CERT_FILE": self.ca.certificate,
            "ETCD_CERT_FILE": self.client.certificate,
            "ETCD_KEY_FILE": self.client.key,
        }

    def _pair(self, name: str) -> Pair:
        return Pair(str(self.folder / f"{name}.crt"), str(self.folder / f"{name}.key"))

    def _openssl(self, words: str) -> None:
        subprocess.run(["openssl", *words.split()], check=True, capture_output=True, timeout=60)
