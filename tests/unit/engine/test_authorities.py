"""Who says which certificate authorities are trusted."""

from __future__ import annotations

from pgetpy.engine.authorities import authorities
from pgetpy.settings import Settings


def read(**environ: str) -> Settings:
    return Settings.from_environment(environ)


def test_who_is_trusted_is_said_by_the_flag_then_by_openssl_s_variables_then_by_others() -> None:
    variables = {"PGET_CACERT": "f", "SSL_CERT_FILE": "a", "SSL_CERT_DIR": "b",
                 "REQUESTS_CA_BUNDLE": "c", "CURL_CA_BUNDLE": "d"}  # fmt: skip
    assert authorities(read(**variables)) == (("--cacert", "f"),)
    del variables["PGET_CACERT"]
    assert authorities(read(**variables)) == (("SSL_CERT_FILE", "a"), ("SSL_CERT_DIR", "b"))
    flagged = read(**variables).with_flags({"cacert": "x"})
    assert authorities(flagged) == (("--cacert", "x"),)
    del variables["SSL_CERT_FILE"]
    assert authorities(read(**variables)) == (("SSL_CERT_DIR", "b"),)
    del variables["SSL_CERT_DIR"]
    assert authorities(read(**variables)) == (("REQUESTS_CA_BUNDLE", "c"),)
    assert authorities(read(**variables, SSL_CERT_FILE="")) == (("REQUESTS_CA_BUNDLE", "c"),)
    del variables["REQUESTS_CA_BUNDLE"]
    assert authorities(read(**variables)) == (("CURL_CA_BUNDLE", "d"),)
    assert authorities(read()) == ()
