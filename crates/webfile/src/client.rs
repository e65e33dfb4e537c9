//! Range requests, tried again where that can help.

use std::io::{self, Read};
use std::sync::Arc;
use std::time::Duration;

use ureq::http::{HeaderMap, Response, StatusCode};
use ureq::tls::{Certificate, RootCerts, TlsConfig};
use ureq::{Agent, Body};

use crate::file::WebOptions;
use crate::{Identity, WebError, WebErrorKind};

/// Longest wait between two attempts.
const MAX_WAIT: Duration = Duration::from_secs(10);

pub(crate) struct Client {
    agent: Agent,
    url: String,
    authorization: Option<String>,
    attempts: u32,
    wait: Duration,
}

/// Why an attempt failed, and whether another one may help.
struct Attempt {
    error: WebError,
    again: bool,
}

impl Client {
    pub(crate) fn new(url: &str, options: &WebOptions) -> Result<Self, WebError> {
        let secure = url.starts_with("https://");
        let address = url.strip_prefix("https://").or_else(|| url.strip_prefix("http://"));
        let bad = |what: String| WebError::new(WebErrorKind::Address, what);
        let address = address.ok_or_else(|| bad(format!("`{url}` is no address: write https://HOST/FILE")))?;
        let host = address.split(['/', '?', '#']).next().unwrap_or_default();
        if host.is_empty() || url.contains(['\r', '\n', ' ']) {
            return Err(bad(format!("`{}` is no address: write https://HOST/FILE", url.escape_debug())));
        }
        // It would be seen in lists of processes, and be written where addresses are kept.
        if host.contains('@') {
            return Err(
                bad("an address with a password in it; put `USER:PASSWORD` into a file: auth-file=FILE".into()),
            );
        }
        let mut config = Agent::config_builder()
            .http_status_as_error(false)
            .https_only(secure)
            .max_redirects(5)
            .accept_encoding("identity")
            .user_agent(concat!("visor/", env!("CARGO_PKG_VERSION")))
            .timeout_connect(Some(options.timeout))
            .timeout_recv_response(Some(options.timeout))
            .timeout_recv_body(Some(options.timeout))
            .max_response_header_size(64 << 10);
        if secure {
            config = config.tls_config(tls(options)?);
        }
        Ok(Client {
            agent: config.build().new_agent(),
            url: url.to_owned(),
            authorization: options.authorization.clone(),
            attempts: options.attempts.max(1),
            wait: options.wait,
        })
    }

    /// Up to `len` bytes from `at`, fewer at the end of the file, and what the server says of the file. With `known`, another
    /// version is an error.
    pub(crate) fn get(&self, at: u64, len: usize, known: Option<&Identity>) -> Result<(Vec<u8>, Identity), WebError> {
        let mut wait = self.wait;
        let mut left = self.attempts;
        loop {
            left -= 1;
            match self.attempt(at, len, known) {
                Ok(done) => return Ok(done),
                Err(a) if a.again && left > 0 => {
                    tracing::debug!("{}: {}; again in {wait:?}", self.url, a.error);
                    // Many machines that lost the same server must not come back all at once.
                    let spread = f64::from(getrandom::u32().unwrap_or(0) % 1000) / 1000.0;
                    std::thread::sleep(wait.mul_f64(0.5 + spread));
                    wait = (wait * 2).min(MAX_WAIT);
                }
                Err(a) => return Err(a.error),
            }
        }
    }

    fn attempt(&self, at: u64, len: usize, known: Option<&Identity>) -> Result<(Vec<u8>, Identity), Attempt> {
        let last = at + len as u64 - 1;
        let mut request = self.agent.get(&self.url).header("Range", format!("bytes={at}-{last}"));
        if let Some(authorization) = &self.authorization {
            request = request.header("Authorization", authorization);
        }
        let mut response = request.call().map_err(|e| self.failed(e))?;
        let range = self.range(&response)?;
        let identity = self.identity(response.headers(), range.2);
        if let Some(why) = known.and_then(|k| k.differs(&identity)) {
            let what = format!("{} has changed on its server: {why}", self.url);
            return Err(Attempt { error: WebError::new(WebErrorKind::Changed, what), again: false });
        }
        if range.0 != at || range.1 > last || range.1 < at || range.1 >= range.2 {
            return Err(self.again(format!("{}: the server sends another range than asked for", self.url), None));
        }
        let mut data = vec![0; (range.1 - at + 1) as usize];
        let mut body = response.body_mut().as_reader();
        body.read_exact(&mut data)
            .map_err(|e| self.again(format!("{}: the server's answer is cut off", self.url), Some(e)))?;
        // Fewer bytes than asked for only at the end of the file.
        if range.1 != last && range.1 + 1 != range.2 {
            return Err(self.again(format!("{}: the server sends a part of the range only", self.url), None));
        }
        Ok((data, identity))
    }

    /// First and last byte, and length of the file, by `Content-Range`.
    fn range(&self, response: &Response<Body>) -> Result<(u64, u64, u64), Attempt> {
        let status = response.status();
        let no = |kind, what: String| Attempt { error: WebError::new(kind, what), again: false };
        match status {
            StatusCode::PARTIAL_CONTENT => {}
            StatusCode::OK => {
                let what = format!("{}: the server sends whole files only, no ranges of them", self.url);
                return Err(no(WebErrorKind::NoRanges, what));
            }
            StatusCode::RANGE_NOT_SATISFIABLE => {
                return Err(no(WebErrorKind::Changed, format!("{} is empty or shorter than it was", self.url)));
            }
            s if s.is_server_error() || matches!(s.as_u16(), 408 | 425 | 429) => {
                return Err(self.again(format!("{}: the server answers {s}", self.url), None));
            }
            s => return Err(no(WebErrorKind::Refused, format!("{}: the server answers {s}", self.url))),
        }
        let text = header(response.headers(), "content-range").unwrap_or_default();
        parse_range(&text).ok_or_else(|| {
            self.again(
                format!("{}: the server does not say which range it sends: `{}`", self.url, text.escape_debug()),
                None,
            )
        })
    }

    fn identity(&self, headers: &HeaderMap, length: u64) -> Identity {
        let etag = header(headers, "etag");
        Identity { url: self.url.clone(), length, etag, modified: header(headers, "last-modified") }
    }

    fn failed(&self, e: ureq::Error) -> Attempt {
        let again = !matches!(
            e,
            ureq::Error::BadUri(_)
                | ureq::Error::RequireHttpsOnly(_)
                | ureq::Error::TooManyRedirects
                | ureq::Error::RedirectFailed
        );
        // A certificate does not get better.
        let again = again && !e.to_string().contains("certificate");
        let source = match e {
            ureq::Error::Io(e) => e,
            other => io::Error::other(other.to_string()),
        };
        let what = format!("cannot read {}", self.url);
        Attempt { error: WebError { kind: WebErrorKind::Failed, what, source: Some(source) }, again }
    }

    fn again(&self, what: String, source: Option<io::Error>) -> Attempt {
        Attempt { error: WebError { kind: WebErrorKind::Failed, what, source }, again: true }
    }
}

fn header(headers: &HeaderMap, name: &str) -> Option<String> {
    headers.get(name).and_then(|v| v.to_str().ok()).map(str::to_owned)
}

/// `bytes FIRST-LAST/LENGTH` (RFC 9110 §14.4).
pub(crate) fn parse_range(text: &str) -> Option<(u64, u64, u64)> {
    let rest = text.trim().strip_prefix("bytes")?.trim_start();
    let (range, length) = rest.split_once('/')?;
    let (first, last) = range.split_once('-')?;
    let number = |t: &str| t.trim().parse::<u64>().ok().filter(|n| *n <= i64::MAX as u64);
    Some((number(first)?, number(last)?, number(length)?))
}

fn tls(options: &WebOptions) -> Result<TlsConfig, WebError> {
    let found = match &options.ca {
        Some(path) => {
            use rustls::pki_types::CertificateDer;
            use rustls::pki_types::pem::PemObject;
            let fail = |e: rustls::pki_types::pem::Error| {
                WebError::host(format!("cannot use the authority {}", path.display()), io::Error::other(e.to_string()))
            };
            let all = CertificateDer::pem_file_iter(path).map_err(fail)?;
            all.collect::<Result<Vec<_>, _>>().map_err(fail)?
        }
        None => rustls_native_certs::load_native_certs().certs,
    };
    if found.is_empty() {
        return Err(WebError::new(WebErrorKind::Host, "this host trusts no authority; name one: tls-ca=FILE"));
    }
    let roots: Vec<Certificate<'static>> = found.iter().map(|c| Certificate::from_der(c).to_owned()).collect();
    Ok(TlsConfig::builder()
        .root_certs(RootCerts::Specific(Arc::new(roots)))
        .unversioned_rustls_crypto_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .build())
}
