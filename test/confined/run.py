#!/usr/bin/env python3
"""Runs a program as the kubelet would run a container: with exactly the capabilities and system calls that it is given.

run.py PROFILE CAPABILITY,… PROGRAM [ARG…]   (as root of its user namespace; needs libseccomp2)
"""
import ctypes
import json
import os
import sys

ALLOW, ERRNO = 0x7FFF0000, 0x00050000
PR_SET_NO_NEW_PRIVS, PR_CAPBSET_DROP = 38, 24
CAPABILITIES = {"DAC_OVERRIDE": 1, "NET_ADMIN": 12, "NET_RAW": 13, "SYS_PTRACE": 19, "SYS_ADMIN": 21}


def check(result, what):
    if result < 0:
        sys.exit(f"run.py: {what}: {os.strerror(ctypes.get_errno() or -result)}")


def main(profile, capabilities, *command):
    libc = ctypes.CDLL(None, use_errno=True)
    seccomp = ctypes.CDLL("libseccomp.so.2", use_errno=True)
    seccomp.seccomp_init.restype = ctypes.c_void_p
    wanted = {CAPABILITIES[name] for name in capabilities.split(",")}
    with open("/proc/sys/kernel/cap_last_cap", encoding="ascii") as file:
        last = int(file.read())
    for number in set(range(last + 1)) - wanted:
        check(libc.prctl(PR_CAPBSET_DROP, number, 0, 0, 0), f"drop capability {number}")
    check(libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "no_new_privs")

    with open(profile, encoding="utf8") as file:
        rules = json.load(file)
    assert rules["defaultAction"] == "SCMP_ACT_ERRNO"
    context = ctypes.c_void_p(seccomp.seccomp_init(ctypes.c_uint32(ERRNO | rules["defaultErrnoRet"])))
    for group in rules["syscalls"]:
        assert group["action"] == "SCMP_ACT_ALLOW"
        for name in group["names"]:
            number = seccomp.seccomp_syscall_resolve_name(name.encode())
            if number == -1:
                sys.exit(f"run.py: {profile}: there is no system call {name}")
            if number < 0:
                continue  # one that this processor does not have
            check(seccomp.seccomp_rule_add(context, ctypes.c_uint32(ALLOW), number, 0), name)
    check(seccomp.seccomp_load(context), "seccomp_load")
    os.execv(command[0], command)


main(*sys.argv[1:])
