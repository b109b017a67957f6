"""The Sandbox actor's side of jails: runs with this account's rights and believes nothing that comes out of one."""
