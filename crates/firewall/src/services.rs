//! Services by name, as firewalld knows them: the IANA's well-known ports.

use visor_net::Protocol;

/// A service.
#[derive(Debug, PartialEq, Eq)]
pub struct Service {
    /// Its name.
    pub name: &'static str,
    /// Its ports: protocol, first, last.
    pub ports: &'static [(Protocol, u16, u16)],
}

const fn tcp(port: u16) -> (Protocol, u16, u16) {
    (Protocol::Tcp, port, port)
}

const fn udp(port: u16) -> (Protocol, u16, u16) {
    (Protocol::Udp, port, port)
}

macro_rules! services {
    ($($name:literal: $($port:expr),+;)+) => {
        /// All services, by name.
        pub const SERVICES: &[Service] = &[$(Service { name: $name, ports: &[$($port),+] }),+];
    };
}

services! {
    "amqp": tcp(5672);
    "amqps": tcp(5671);
    "cockpit": tcp(9090);
    "dhcp": udp(67);
    "dhcpv6": udp(547);
    "dhcpv6-client": udp(546);
    "dns": tcp(53), udp(53);
    "docker-registry": tcp(5000);
    "elasticsearch": tcp(9200), tcp(9300);
    "etcd-client": tcp(2379);
    "etcd-server": tcp(2380);
    "ftp": tcp(21);
    "git": tcp(9418);
    "grafana": tcp(3000);
    "http": tcp(80);
    "http3": udp(443);
    "https": tcp(443), udp(443);
    "imap": tcp(143);
    "imaps": tcp(993);
    "ipsec": udp(500), udp(4500);
    "iscsi-target": tcp(3260);
    "kerberos": tcp(88), udp(88);
    "kube-apiserver": tcp(6443);
    "kubelet": tcp(10250);
    "ldap": tcp(389);
    "ldaps": tcp(636);
    "mdns": udp(5353);
    "memcache": tcp(11211), udp(11211);
    "mongodb": tcp(27017);
    "mqtt": tcp(1883);
    "mqtt-tls": tcp(8883);
    "mssql": tcp(1433);
    "mysql": tcp(3306);
    "nfs": tcp(2049);
    "nfs3": tcp(2049), udp(2049);
    "node-exporter": tcp(9100);
    "ntp": udp(123);
    "openvpn": udp(1194);
    "pop3": tcp(110);
    "pop3s": tcp(995);
    "postgresql": tcp(5432);
    "prometheus": tcp(9090);
    "rdp": tcp(3389), udp(3389);
    "redis": tcp(6379);
    "rpc-bind": tcp(111), udp(111);
    "rsyncd": tcp(873), udp(873);
    "samba": tcp(139), tcp(445), udp(137), udp(138);
    "samba-client": udp(137), udp(138);
    "smtp": tcp(25);
    "smtp-submission": tcp(587);
    "smtps": tcp(465);
    "snmp": tcp(161), udp(161);
    "squid": tcp(3128);
    "ssh": tcp(22);
    "syslog": udp(514);
    "syslog-tls": tcp(6514), udp(6514);
    "telnet": tcp(23);
    "tftp": udp(69);
    "vnc-server": (Protocol::Tcp, 5900, 5903);
    "wireguard": udp(51820);
    "zabbix-agent": tcp(10050);
    "zabbix-server": tcp(10051);
}

/// The service called `name`.
pub fn service(name: &str) -> Option<&'static Service> {
    SERVICES.iter().find(|s| s.name == name)
}

/// The service that a port alone belongs to.
pub fn service_of(protocol: Protocol, port: u16) -> Option<&'static Service> {
    let exact =
        |s: &&Service| s.ports.iter().any(|(p, first, last)| *p == protocol && (*first..=*last).contains(&port));
    // The one with the fewest ports says most.
    SERVICES.iter().filter(exact).min_by_key(|s| s.ports.len())
}
