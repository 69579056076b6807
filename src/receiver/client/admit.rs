//! Which hosts a donor sends to: those all of whose addresses are in `allow-receiver`.
//!
//! Whoever can reach the cluster's port can name a host, and whoever runs a name server can make a name mean any address. So
//! a name is looked up once, every address that it has must be allowed, and only these addresses are connected to afterwards.

use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;

use crate::error::{Class, Error, Result};
use crate::wsrep::address::{Host, HostPort};

/// More addresses than this are no host.
const MOST: usize = 64;

/// Finds the addresses of a name.
pub(super) type Lookup<'a> = dyn FnOnce(&str) -> Result<Vec<IpAddr>> + 'a;

/// The addresses of `receiver`, all of them allowed, to be connected to without looking again.
pub(super) fn admit(receiver: &HostPort, allowed: &[IpNet], lookup: Box<Lookup<'_>>) -> Result<Vec<SocketAddr>> {
    if allowed.is_empty() {
        let text = format!("the SST address asks for streaming to \"{receiver}\", and allow-receiver names no network");
        return Err(Error::new(Class::Refused, text).hint(advice(receiver)));
    }
    let found = match receiver.host() {
        Host::Ip(address) => vec![*address],
        Host::Name(name) => lookup(name)?,
    };
    if found.is_empty() || found.len() > MOST {
        let text = format!("the receiver \"{receiver}\" has {} addresses", found.len());
        return Err(Error::new(Class::NotFound, text));
    }
    // An IPv4 address may come dressed as one of IPv6, and means the same host.
    let found: Vec<IpAddr> = found.into_iter().map(|address| address.to_canonical()).collect();
    if let Some(stranger) = found.iter().find(|address| !allowed.iter().any(|net| net.contains(*address))) {
        let text = format!("the receiver \"{receiver}\" is not allowed: {stranger} is in no network of allow-receiver");
        return Err(Error::new(Class::Refused, text).hint(advice(receiver)));
    }
    Ok(found.into_iter().map(|address| SocketAddr::new(address, receiver.port())).collect())
}

fn advice(receiver: &HostPort) -> String {
    let host = match receiver.host() {
        Host::Ip(address) => address.to_string(),
        Host::Name(_) => "ADDRESS".to_owned(),
    };
    format!("if you want that: `allow-receiver = {host}` in group [wsrep_sst_backup] of an option file")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nets(list: &[&str]) -> Vec<IpNet> {
        list.iter().map(|net| net.parse().unwrap()).collect()
    }

    fn admitted(receiver: &str, allowed: &[&str], found: &[&str]) -> Result<Vec<SocketAddr>> {
        let found = found.iter().map(|address| address.parse().unwrap()).collect();
        admit(&receiver.parse().unwrap(), &nets(allowed), Box::new(|_| Ok(found)))
    }

    #[test]
    fn every_address_of_a_name_must_be_allowed() {
        let net = ["10.0.0.0/8", "fd00::/8"];
        let good = admitted("backup:4444", &net, &["10.0.0.1", "fd00::1"]).unwrap();
        assert_eq!(good, ["10.0.0.1:4444".parse().unwrap(), "[fd00::1]:4444".parse().unwrap()]);
        for found in [["10.0.0.1", "127.0.0.1"], ["192.0.2.1", "10.0.0.1"], ["10.0.0.1", "::1"]] {
            let error = admitted("backup:4444", &net, &found).unwrap_err();
            assert_eq!(error.class(), Class::Refused);
            assert!(error.to_string().contains("allow-receiver"), "{error}");
        }
    }

    #[test]
    fn an_address_dressed_as_ipv6_is_what_it_is() {
        assert!(admitted("backup:1", &["10.0.0.0/8"], &["::ffff:10.0.0.1"]).is_ok());
        assert!(admitted("backup:1", &["::/0"], &["::ffff:10.0.0.1"]).is_err());
        assert!(admitted("[::ffff:127.0.0.1]:1", &["::/0"], &[]).is_err());
    }

    #[test]
    fn where_nothing_is_allowed_nothing_is_looked_up() {
        let lookup = Box::new(|_: &str| -> Result<Vec<IpAddr>> { panic!("looked up") });
        let error = admit(&"backup:1".parse().unwrap(), &[], lookup).unwrap_err();
        assert_eq!(error.class(), Class::Refused);
        assert!(error.to_string().contains("allow-receiver") && error.advice().unwrap().contains("allow-receiver ="));
    }

    #[test]
    fn an_address_is_not_looked_up() {
        let lookup = Box::new(|_: &str| -> Result<Vec<IpAddr>> { panic!("looked up") });
        let allowed = nets(&["192.0.2.7/32"]);
        assert_eq!(admit(&"192.0.2.7:1".parse().unwrap(), &allowed, lookup).unwrap().len(), 1);
        assert!(admitted("192.0.2.8:1", &["192.0.2.7/32"], &[]).is_err());
    }

    #[test]
    fn a_name_without_addresses_and_one_with_too_many_are_refused() {
        assert_eq!(admitted("backup:1", &["0.0.0.0/0"], &[]).unwrap_err().class(), Class::NotFound);
        let many: Vec<&str> = std::iter::repeat_n("10.0.0.1", 65).collect();
        assert!(admitted("backup:1", &["0.0.0.0/0"], &many).is_err());
    }
}
