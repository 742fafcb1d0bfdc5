//! A directory server (OpenLDAP's `slapd`) of the test's own, on loopback of the gateway's namespace.

use std::time::Duration;

use crate::process::Process;
use crate::topology::Net;

/// Everything is below this name.
const BASE: &str = "dc=tessera,dc=test";
/// Where it listens, in the gateway's namespace.
const URL: &str = "ldap://127.0.0.1:3389";
const ADMIN: &str = "cn=admin,dc=tessera,dc=test";
const ADMIN_PASSWORD: &str = "directory-admin";

/// A running directory; ends on drop.
#[derive(Debug)]
pub struct Directory {
    /// Its process and log.
    pub process: Process,
}

impl Directory {
    /// Starts one with these users and passwords (`uid=USER,ou=people,…`).
    #[must_use]
    pub fn start(net: &Net, users: &[(&str, &str)]) -> Self {
        let folder = net.folder().join("slapd");
        std::fs::create_dir_all(folder.join("data")).expect("a folder for the directory");
        let config = net.write(
            "slapd.conf",
            &format!(
                "include /etc/ldap/schema/core.schema\ninclude /etc/ldap/schema/cosine.schema\n\
                 include /etc/ldap/schema/inetorgperson.schema\n\
                 modulepath /usr/lib/ldap\nmoduleload back_mdb\npidfile {folder}/pid\nargsfile {folder}/args\n\
                 database mdb\nmaxsize 16777216\nsuffix \"{BASE}\"\nrootdn \"{ADMIN}\"\nrootpw {ADMIN_PASSWORD}\n\
                 directory {folder}/data\n\
                 access to attrs=userPassword by anonymous auth by * none\naccess to * by * read\n",
                folder = folder.display(),
            ),
        );
        let mut entries = format!(
            "dn: {BASE}\nobjectClass: dcObject\nobjectClass: organization\ndc: tessera\no: Tessera\n\n\
             dn: ou=people,{BASE}\nobjectClass: organizationalUnit\nou: people\n\n"
        );
        for (user, password) in users {
            entries.push_str(&format!(
                "dn: uid={user},ou=people,{BASE}\nobjectClass: inetOrgPerson\nuid: {user}\ncn: {user}\nsn: {user}\n\
                 userPassword: {password}\n\n"
            ));
        }
        let entries = net.write("people.ldif", &entries);
        net.gateway.run(&["slapadd", "-f", &config, "-l", &entries]);
        let argv = ["slapd", "-d", "stats", "-f", &config, "-h", URL];
        let mut process = Process::start("slapd", &net.gateway, &argv, &net.folder().join("slapd.log"));
        process.wait_for(&["slapd starting"], Duration::from_secs(15));
        Self { process }
    }

    /// The config that `openvpn-auth-ldap` reads: users are found by name, and their own password must bind.
    #[must_use]
    pub fn plugin_config(net: &Net) -> String {
        net.write(
            "auth-ldap.conf",
            &format!(
                "<LDAP>\n  URL {URL}\n  Timeout 5\n  TLSEnable no\n</LDAP>\n\
                 <Authorization>\n  BaseDN \"ou=people,{BASE}\"\n  SearchFilter \"(uid=%u)\"\n  RequireGroup false\n\
                 </Authorization>\n"
            ),
        )
    }
}
