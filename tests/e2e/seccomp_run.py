"""seccomp_run.py PROFILE COMMAND...: runs the command under an OCI seccomp profile, but stricter: what the profile refuses ends the
process (SIGSYS), so that a test sees it."""
import ctypes
import json
import os
import sys

KILL_PROCESS, ALLOW = 0x80000000, 0x7fff0000


def main():
    with open(sys.argv[1]) as file:
        profile = json.load(file)
    lib = ctypes.CDLL("libseccomp.so.2")
    lib.seccomp_init.restype = ctypes.c_void_p
    lib.seccomp_rule_add.argtypes = (ctypes.c_void_p, ctypes.c_uint32, ctypes.c_int, ctypes.c_uint)
    lib.seccomp_load.argtypes = (ctypes.c_void_p,)
    context = lib.seccomp_init(KILL_PROCESS)
    for rule in profile["syscalls"]:
        assert rule["action"] == "SCMP_ACT_ALLOW" and not rule.get("args"), rule
        for name in rule["names"]:
            number = lib.seccomp_syscall_resolve_name(name.encode())
            if number >= 0:  # others belong to another architecture, or to a newer library
                assert lib.seccomp_rule_add(context, ALLOW, number, 0) == 0, name
    assert lib.seccomp_load(context) == 0
    os.execv(sys.argv[2], sys.argv[2:])


if __name__ == "__main__":
    main()
