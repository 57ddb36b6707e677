//! Where calls may go whose addresses users give: to the public internet, and nowhere behind it.
//!
//! A name is resolved once, by the connection itself; the addresses that it is given are those that were checked here.
//! So a name that changes its address between a check and a connection (DNS rebinding) gains nothing. Redirects are
//! not followed, and proxies, which would resolve names themselves, are not used.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use futures_util::future::BoxFuture;
use url::{Host, Url};

/// Resolves a host name to addresses.
pub type Resolve = Arc<dyn Fn(String) -> BoxFuture<'static, io::Result<Vec<IpAddr>>> + Send + Sync>;

/// Decides where calls to users' addresses may go. A cheap clone.
#[derive(Clone)]
pub(super) struct Guard {
    allow_private: bool,
    resolve: Resolve,
}

impl Guard {
    /// `allow_private`: anywhere.
    pub fn new(allow_private: bool, resolve: Resolve) -> Self {
        Self { allow_private, resolve }
    }

    /// Judges what can be seen in the address itself. `url` knows the decimal, octal and hexadecimal spellings of IPv4.
    ///
    /// # Errors
    /// Why no call may go there.
    pub fn check(&self, url: &Url) -> Result<(), String> {
        if !url.username().is_empty() || url.password().is_some() {
            return Err("an address with a user or a password is not called".to_owned());
        }
        let address = match url.host() {
            None => return Err("the address has no host".to_owned()),
            Some(Host::Domain(name)) if is_local_name(name) && !self.allow_private => {
                return Err(format!("{name} is a name of this machine or network (delivery.allow_private)"));
            }
            Some(Host::Domain(_)) => return Ok(()),
            Some(Host::Ipv4(address)) => IpAddr::V4(address),
            Some(Host::Ipv6(address)) => IpAddr::V6(address),
        };
        self.may_call(address)
    }

    fn may_call(&self, address: IpAddr) -> Result<(), String> {
        if self.allow_private || is_public(address) {
            return Ok(());
        }
        Err(format!("{address} is not a public address (delivery.allow_private)"))
    }

    /// The addresses of a name, if all of them may be called.
    async fn addresses(&self, name: String) -> io::Result<Vec<SocketAddr>> {
        let found = (self.resolve)(name).await?;
        for address in &found {
            self.may_call(*address).map_err(io::Error::other)?;
        }
        // The port is that of the URL.
        Ok(found.into_iter().map(|address| SocketAddr::new(address, 0)).collect())
    }
}

impl reqwest::dns::Resolve for Guard {
    fn resolve(&self, name: reqwest::dns::Name) -> reqwest::dns::Resolving {
        let guard = self.clone();
        Box::pin(async move {
            let addresses = guard.addresses(name.as_str().to_owned()).await?;
            Ok(Box::new(addresses.into_iter()) as reqwest::dns::Addrs)
        })
    }
}

/// As this machine resolves names.
pub(super) fn system() -> Resolve {
    Arc::new(|name| {
        Box::pin(async move {
            let found = tokio::net::lookup_host((name, 0)).await?;
            Ok(found.map(|address| address.ip()).collect())
        })
    })
}

fn is_local_name(name: &str) -> bool {
    let name = name.trim_end_matches('.').to_ascii_lowercase();
    name == "localhost" || [".localhost", ".local", ".internal"].iter().any(|end| name.ends_with(end))
}

/// Whether an address belongs to the public internet (the registries of special addresses of IANA).
fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => is_public_v4(address),
        IpAddr::V6(address) => is_public_v6(address),
    }
}

fn is_public_v4(address: Ipv4Addr) -> bool {
    let [a, b, c, _] = address.octets();
    let special = match (a, b, c) {
        (0 | 10 | 127, ..) | (224.., ..) => true,
        // CGNAT; link-local; private.
        (100, 64..=127, _) | (169, 254, _) | (172, 16..=31, _) | (192, 168, _) => true,
        // Protocol assignments, examples, the relay of 6to4, benchmarks.
        (192, 0, 0 | 2) | (192, 88, 99) | (198, 18 | 19, _) | (198, 51, 100) | (203, 0, 113) => true,
        _ => false,
    };
    !special
}

fn is_public_v6(address: Ipv6Addr) -> bool {
    let s = address.segments();
    // An IPv4 address in another form: mapped, or behind the NAT64 of a provider.
    if matches!(s, [0, 0, 0, 0, 0, 0xffff, ..] | [0x64, 0xff9b, 0, 0, 0, 0, ..]) {
        let [.., a, b, c, d] = address.octets();
        return is_public_v4(Ipv4Addr::new(a, b, c, d));
    }
    // Global unicast, without Teredo and other protocols, examples, and 6to4: these lead to IPv4 addresses, or nowhere.
    let global = s[0] & 0xe000 == 0x2000;
    let special =
        (s[0] == 0x2001 && (s[1] < 0x200 || s[1] == 0xdb8)) || s[0] == 0x2002 || (s[0] == 0x3fff && s[1] < 0x1000);
    global && !special
}

#[cfg(test)]
mod tests {
    use super::*;

    fn guard(allow_private: bool) -> Guard {
        Guard::new(allow_private, system())
    }

    #[test]
    fn only_public_addresses() {
        for text in [
            "0.0.0.0",
            "10.1.2.3",
            "100.64.0.1",
            "100.127.255.255",
            "127.0.0.1",
            "127.8.8.8",
            "169.254.169.254",
            "172.16.0.1",
            "172.31.255.255",
            "192.0.0.8",
            "192.0.2.1",
            "192.88.99.1",
            "192.168.1.1",
            "198.18.0.1",
            "198.51.100.7",
            "203.0.113.7",
            "224.0.0.1",
            "240.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "::127.0.0.1",
            "::ffff:127.0.0.1",
            "::ffff:10.0.0.1",
            "64:ff9b::7f00:1",
            "64:ff9b::a00:1",
            "64:ff9b:1::1",
            "2002:7f00:1::",
            "2002:a00:1::1",
            "2001::1",
            "2001:db8::1",
            "fe80::1",
            "fc00::1",
            "fd12:3456::1",
            "fec0::1",
            "ff02::1",
            "100::1",
            "3fff::1",
        ] {
            assert!(!is_public(text.parse().unwrap()), "{text}");
        }
        for text in [
            "1.1.1.1",
            "100.63.255.255",
            "100.128.0.1",
            "172.15.0.1",
            "172.32.0.1",
            "192.0.1.1",
            "198.20.0.1",
            "223.255.255.255",
            "2606:4700::1111",
            "2400:3200::1",
            "::ffff:1.1.1.1",
            "64:ff9b::101:101",
        ] {
            assert!(is_public(text.parse().unwrap()), "{text}");
        }
    }

    #[test]
    fn no_spelling_of_an_address_gets_through() {
        for text in [
            "http://127.0.0.1/",
            "http://2130706433/",
            "http://0x7f000001/",
            "http://0177.0.0.1/",
            "http://127.1/",
            "http://0x7f.1/",
            "http://0/",
            "http://[::1]/",
            "http://[::ffff:127.0.0.1]/",
            "http://[::ffff:7f00:1]/",
            "http://[64:ff9b::127.0.0.1]/",
            "http://[::127.0.0.1]/",
            "http://127.0.0.1.:80/",
            "http://１２７.0.0.1/",
            "http://3232235777/",
            "http://localhost/",
            "http://LOCALHOST./",
            "http://a.localhost/",
            "http://db.internal/",
            "http://shop.example@127.0.0.1/",
            "http://user:pass@shop.example/",
            "http://127.0.0.1#@shop.example/",
            "http://127.0.0.1\\@shop.example/",
        ] {
            let Ok(url) = Url::parse(text) else { continue };
            assert!(guard(false).check(&url).is_err(), "{text} → {url}");
        }
        for text in ["https://shop.example/n", "http://1.1.1.1:8080/n", "http://[2606:4700::1111]/"] {
            assert_eq!(guard(false).check(&Url::parse(text).unwrap()), Ok(()), "{text}");
        }
        let with = |text| guard(true).check(&Url::parse(text).unwrap());
        assert_eq!((with("http://127.0.0.1/"), with("http://localhost/")), (Ok(()), Ok(())));
        assert!(with("http://u:p@127.0.0.1/").is_err());
    }
}
