/* A plugin for the tests: the user name says what it does. Compiled by plugin_api.rs. */
#include <openvpn/openvpn-plugin.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const char *value(const char *const envp[], const char *name)
{
    size_t length = strlen(name);
    for (; *envp; envp++)
        if (!strncmp(*envp, name, length) && (*envp)[length] == '=')
            return *envp + length + 1;
    return "";
}

static int is(const char *const envp[], const char *user) { return !strcmp(value(envp, "username"), user); }

/* Answers by file, from a process of its own, after two seconds. */
static int later(const char *const envp[], const char *word)
{
    if (fork() == 0) {
        int file;
        sleep(2);
        file = open(value(envp, "auth_control_file"), O_WRONLY | O_TRUNC);
        _exit(file >= 0 && write(file, word, 1) == 1 ? 0 : 1);
    }
    return OPENVPN_PLUGIN_FUNC_DEFERRED;
}

static int login(const char *const envp[])
{
    if (is(envp, "crash"))
        abort();
    if (is(envp, "hang"))
        for (;;)
            pause();
    if (is(envp, "later"))
        return later(envp, "1");
    if (is(envp, "never"))
        return later(envp, "0");
    return is(envp, "no") ? OPENVPN_PLUGIN_FUNC_ERROR : OPENVPN_PLUGIN_FUNC_SUCCESS;
}

/* What a client-connect script would write. */
static int connected(struct openvpn_plugin_string_list **list)
{
    struct openvpn_plugin_string_list *item = calloc(1, sizeof *item);
    if (!item)
        return OPENVPN_PLUGIN_FUNC_ERROR;
    item->name = strdup("config");
    item->value = strdup("push \"auth-token PLUGIN-TOKEN-17\"\npush \"route 10.98.0.0 255.255.0.0\"\n");
    *list = item;
    return OPENVPN_PLUGIN_FUNC_SUCCESS;
}

OPENVPN_EXPORT int openvpn_plugin_min_version_required_v1(void) { return 3; }

OPENVPN_EXPORT int openvpn_plugin_open_v3(int version, const struct openvpn_plugin_args_open_in *in,
                                          struct openvpn_plugin_args_open_return *out)
{
    static int state;
    (void)version, (void)in;
    out->handle = &state;
    out->type_mask = OPENVPN_PLUGIN_MASK(OPENVPN_PLUGIN_AUTH_USER_PASS_VERIFY)
        | OPENVPN_PLUGIN_MASK(OPENVPN_PLUGIN_CLIENT_CONNECT_V2) | OPENVPN_PLUGIN_MASK(OPENVPN_PLUGIN_TLS_FINAL);
    return OPENVPN_PLUGIN_FUNC_SUCCESS;
}

OPENVPN_EXPORT int openvpn_plugin_func_v3(int version, const struct openvpn_plugin_args_func_in *in,
                                          struct openvpn_plugin_args_func_return *out)
{
    const char *const *envp = (const char *const *)in->envp;
    (void)version;
    switch (in->type) {
    case OPENVPN_PLUGIN_AUTH_USER_PASS_VERIFY: return login(envp);
    case OPENVPN_PLUGIN_CLIENT_CONNECT_V2: return connected(out->return_list);
    case OPENVPN_PLUGIN_TLS_FINAL: return is(envp, "veto") ? OPENVPN_PLUGIN_FUNC_ERROR : OPENVPN_PLUGIN_FUNC_SUCCESS;
    default: return OPENVPN_PLUGIN_FUNC_ERROR;
    }
}

OPENVPN_EXPORT void openvpn_plugin_close_v1(openvpn_plugin_handle_t handle) { (void)handle; }
