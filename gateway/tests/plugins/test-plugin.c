/*
 * An OpenVPN plugin that does what its arguments say. For tests.
 *
 * Compiled with -DAPI=1, 2 or 3: which version of the interface it speaks (3 unless told). -DMIN_VERSION=N: which version it
 * says it needs. -DINIT_POINT=N: when it wants to be opened. -DNO_CONTEXTS: it keeps nothing for clients.
 *
 * Arguments, in any order:
 *   record=FILE        appends what happens to FILE, one line each:
 *                          open api=N uid=N pid=N | arg WORD | env NAME=VALUE | call TYPE client=N depth=N uid=N | construct N |
 *                          destroy N | close
 *                      "arg" and "env" lines stand below their "open" or "call". Environments only with "record-env".
 *   record-env         see above
 *   mask=N,N,...       the types of calls it wants; default: all that a rule names
 *   open=ACTION        fail, crash, hang, stray-mask; "crash-if=FILE" crashes if FILE exists
 *   N=ACTION[@NAME]    a rule for calls of type N, only for those with username=NAME if that is given. The first that fits
 *                      counts; where none fits: accept
 *
 * Actions of rules:
 *   accept  deny  crash  hang  garbage            as they say; garbage returns 42
 *   exit                                          ends the process with code 3
 *   sleep:MS                                      accepts after a while
 *   password:TEXT                                 accepts if the password is TEXT
 *   defer                                         returns "deferred" and does nothing more
 *   defer:MS:C                                    the same, and a forked process writes C ('1' or '0') to auth_control_file
 *   pending:TIMEOUT:METHOD:EXTRA                  writes auth_pending_file, then as defer
 *   reason:TEXT                                   writes auth_failed_reason_file, then denies
 *   crresponse:TEXT                               writes 1 to auth_control_file if crresponse is TEXT, else 0; accepts
 *   file:TEXT                                     writes TEXT to the file that is argv[1]; accepts
 *   defer-connect:MS:TEXT                         defers; a forked process writes TEXT to client_connect_config_file (or
 *                                                 argv[1]) and then 1 to client_connect_deferred_file
 *   config:TEXT                                   returns a value named config; accepts. In TEXT "\n" is a new line; no action may hold an "@"
 *   config-after:N:TEXT                           returns "deferred" N times, then as config
 *   huge                                          returns a value of 300000 bytes; accepts
 *   many                                          returns 1000 values; accepts
 *   log:TEXT                                      logs by printf, by stderr and by the interface; accepts
 *   require:NAME=VALUE                            accepts if the environment has exactly that
 */
#include <openvpn-plugin.h>

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#ifndef API
#define API 3
#endif

struct plugin {
    const char **args;
    const char *record;
    int record_env;
    int clients;
    int deferred;
    struct openvpn_plugin_callbacks *callbacks;
};

struct client {
    int number;
};

static const char *value_of(const char *const *env, const char *name)
{
    const size_t length = strlen(name);
    for (; env && *env; env++)
        if (strncmp(*env, name, length) == 0 && (*env)[length] == '=')
            return *env + length + 1;
    return NULL;
}

static const char *after(const char *text, const char *prefix)
{
    const size_t length = strlen(prefix);
    return strncmp(text, prefix, length) == 0 ? text + length : NULL;
}

static void write_file(const char *path, const char *text)
{
    FILE *file = path ? fopen(path, "w") : NULL;
    if (file) {
        fputs(text, file);
        fclose(file);
    }
}

static void record(const struct plugin *plugin, const char *line, const char *const *argv, const char *const *env)
{
    FILE *file = plugin->record ? fopen(plugin->record, "a") : NULL;
    if (!file)
        return;
    /* Users change between the calls. */
    chmod(plugin->record, 0666);
    fprintf(file, "%s\n", line);
    for (; argv && *argv; argv++)
        fprintf(file, "arg %s\n", *argv);
    for (; plugin->record_env && env && *env; env++)
        fprintf(file, "env %s\n", *env);
    fclose(file);
}

static void hang(void)
{
    for (;;)
        pause();
}

static void crash(void)
{
    /* Not caught by anything, and not optimised away. */
    raise(SIGSEGV);
}

static void add(struct openvpn_plugin_string_list **list, const char *name, char *value)
{
    struct openvpn_plugin_string_list *entry = calloc(1, sizeof *entry);
    entry->name = strdup(name);
    entry->value = value;
    entry->next = *list;
    *list = entry;
}

static char *with_lines(const char *text)
{
    char *copy = strdup(text), *to = copy;
    for (; *text; text++)
        if (text[0] == '\\' && text[1] == 'n')
            *to++ = '\n', text++;
        else
            *to++ = *text;
    *to = 0;
    return copy;
}

/* A process that answers later, as a plugin that waits for somebody else would have one. */
static void later(int ms, const char *config, const char *text, const char *control, const char *answer)
{
    if (fork() != 0)
        return;
    if (fork() != 0)
        _exit(0);
    usleep((useconds_t)ms * 1000);
    if (config)
        write_file(config, text);
    write_file(control, answer);
    _exit(0);
}

static const char *rule_for(const struct plugin *plugin, int type, const char *user, char *room, size_t size)
{
    for (const char **arg = plugin->args; *arg; arg++) {
        char *end;
        if (strtol(*arg, &end, 10) != type || end == *arg || *end != '=')
            continue;
        snprintf(room, size, "%s", end + 1);
        char *name = strrchr(room, '@');
        if (name && (!user || strcmp(name + 1, user) != 0))
            continue;
        if (name)
            *name = 0;
        return room;
    }
    return "accept";
}

static int act(struct plugin *plugin, const char *rule, const char *const *argv, const char *const *env,
               struct openvpn_plugin_string_list **list)
{
    const char *rest, *have;
    if (!strcmp(rule, "deny"))
        return OPENVPN_PLUGIN_FUNC_ERROR;
    if (!strcmp(rule, "crash"))
        crash();
    if (!strcmp(rule, "hang"))
        hang();
    if (!strcmp(rule, "garbage"))
        return 42;
    if (!strcmp(rule, "exit"))
        exit(3);
    if (!strcmp(rule, "defer"))
        return OPENVPN_PLUGIN_FUNC_DEFERRED;
    if ((rest = after(rule, "sleep:")))
        usleep((useconds_t)atoi(rest) * 1000);
    if ((rest = after(rule, "password:"))) {
        have = value_of(env, "password");
        return !have || strcmp(have, rest) != 0;
    }
    if ((rest = after(rule, "require:"))) {
        for (; *env; env++)
            if (!strcmp(*env, rest))
                return OPENVPN_PLUGIN_FUNC_SUCCESS;
        return OPENVPN_PLUGIN_FUNC_ERROR;
    }
    if ((rest = after(rule, "defer:"))) {
        later(atoi(rest), NULL, NULL, value_of(env, "auth_control_file"), strchr(rest, ':') + 1);
        return OPENVPN_PLUGIN_FUNC_DEFERRED;
    }
    if ((rest = after(rule, "pending:"))) {
        char text[1024];
        snprintf(text, sizeof text, "%s\n", rest);
        /* The third line may hold colons itself. */
        char *colon = strchr(text, ':');
        if (colon) {
            *colon = '\n';
            if ((colon = strchr(colon, ':')))
                *colon = '\n';
        }
        write_file(value_of(env, "auth_pending_file"), text);
        return OPENVPN_PLUGIN_FUNC_DEFERRED;
    }
    if ((rest = after(rule, "reason:"))) {
        write_file(value_of(env, "auth_failed_reason_file"), rest);
        return OPENVPN_PLUGIN_FUNC_ERROR;
    }
    if ((rest = after(rule, "crresponse:"))) {
        have = value_of(env, "crresponse");
        write_file(value_of(env, "auth_control_file"), have && !strcmp(have, rest) ? "1" : "0");
    }
    if ((rest = after(rule, "file:"))) {
        char *text = with_lines(rest);
        write_file(argv[1], text);
        free(text);
    }
    if ((rest = after(rule, "defer-connect:"))) {
        const char *config = value_of(env, "client_connect_config_file");
        char *text = with_lines(strchr(rest, ':') + 1);
        later(atoi(rest), config ? config : argv[1], text, value_of(env, "client_connect_deferred_file"), "1");
        free(text);
        return OPENVPN_PLUGIN_FUNC_DEFERRED;
    }
    if ((rest = after(rule, "config-after:"))) {
        if (plugin->deferred++ < atoi(rest))
            return OPENVPN_PLUGIN_FUNC_DEFERRED;
        plugin->deferred = 0;
        if (list)
            add(list, "config", with_lines(strchr(rest, ':') + 1));
    }
    if ((rest = after(rule, "config:")) && list)
        add(list, "config", with_lines(rest));
    if (!strcmp(rule, "huge") && list) {
        char *value = malloc(300001);
        memset(value, 'x', 300000);
        value[300000] = 0;
        add(list, "config", value);
    }
    if (!strcmp(rule, "many") && list)
        for (int i = 0; i < 1000; i++)
            add(list, "config", strdup("push \"x\""));
    if ((rest = after(rule, "log:"))) {
        printf("stdout %s\n", rest);
        fflush(stdout);
        fprintf(stderr, "stderr %s\n", rest);
        if (plugin->callbacks)
            plugin->callbacks->plugin_log(PLOG_WARN, "TEST", "callback %s %d", rest, 7);
    }
    return OPENVPN_PLUGIN_FUNC_SUCCESS;
}

static int called(struct plugin *plugin, int type, const char *const *argv, const char *const *env,
                  const struct client *client, int depth, struct openvpn_plugin_string_list **list)
{
    char line[128], rule[4096];
    snprintf(line, sizeof line, "call %d client=%d depth=%d uid=%d", type, client ? client->number : -1, depth,
             (int)getuid());
    record(plugin, line, argv, env);
    return act(plugin, rule_for(plugin, type, value_of(env, "username"), rule, sizeof rule), argv, env, list);
}

static struct plugin *opened(const char *const *argv, const char *const *env, unsigned *mask)
{
    struct plugin *plugin = calloc(1, sizeof *plugin);
    size_t count = 0;
    while (argv[count])
        count++;
    plugin->args = calloc(count + 1, sizeof *plugin->args);
    *mask = 0;
    for (size_t i = 1; i < count; i++) {
        char *arg = strdup(argv[i]), *end;
        plugin->args[i - 1] = arg;
        const long type = strtol(arg, &end, 10);
        const char *rest;
        if (end != arg && *end == '=')
            *mask |= 1U << type;
        if ((rest = after(arg, "record=")))
            plugin->record = rest;
        if (!strcmp(arg, "record-env"))
            plugin->record_env = 1;
        if ((rest = after(arg, "open=crash-if=")) && access(rest, F_OK) == 0)
            crash();
    }
    for (const char **arg = plugin->args; *arg; arg++) {
        const char *rest = after(*arg, "mask=");
        for (*mask = rest ? 0 : *mask; rest; rest = strchr(rest, ','))
            rest += *rest == ',', *mask |= 1U << atoi(rest);
        if (!strcmp(*arg, "open=fail"))
            return NULL;
        if (!strcmp(*arg, "open=crash"))
            crash();
        if (!strcmp(*arg, "open=hang"))
            hang();
        if (!strcmp(*arg, "open=stray-mask"))
            *mask |= 1U << 20;
    }
    char line[64];
    snprintf(line, sizeof line, "open api=%d uid=%d pid=%d", API, (int)getuid(), (int)getpid());
    record(plugin, line, argv, env);
    return plugin;
}

OPENVPN_EXPORT void openvpn_plugin_close_v1(openvpn_plugin_handle_t handle)
{
    record(handle, "close", NULL, NULL);
}

#ifndef NO_CONTEXTS
OPENVPN_EXPORT void *openvpn_plugin_client_constructor_v1(openvpn_plugin_handle_t handle)
{
    struct plugin *plugin = handle;
    struct client *client = calloc(1, sizeof *client);
    client->number = plugin->clients++;
    char line[64];
    snprintf(line, sizeof line, "construct %d", client->number);
    record(plugin, line, NULL, NULL);
    return client;
}

OPENVPN_EXPORT void openvpn_plugin_client_destructor_v1(openvpn_plugin_handle_t handle, void *context)
{
    struct client *client = context;
    char line[64];
    snprintf(line, sizeof line, "destroy %d", client->number);
    record(handle, line, NULL, NULL);
    free(client);
}
#endif

#ifdef MIN_VERSION
OPENVPN_EXPORT int openvpn_plugin_min_version_required_v1(void)
{
    return MIN_VERSION;
}
#endif

#ifdef INIT_POINT
OPENVPN_EXPORT int openvpn_plugin_select_initialization_point_v1(void)
{
    return INIT_POINT;
}
#endif

#if API == 1
OPENVPN_EXPORT openvpn_plugin_handle_t openvpn_plugin_open_v1(unsigned int *mask, const char *argv[], const char *envp[])
{
    return opened(argv, envp, mask);
}

OPENVPN_EXPORT int openvpn_plugin_func_v1(openvpn_plugin_handle_t handle, const int type, const char *argv[],
                                          const char *envp[])
{
    return called(handle, type, argv, envp, NULL, -1, NULL);
}
#elif API == 2
OPENVPN_EXPORT openvpn_plugin_handle_t openvpn_plugin_open_v2(unsigned int *mask, const char *argv[], const char *envp[],
                                                              struct openvpn_plugin_string_list **list)
{
    (void)list;
    return opened(argv, envp, mask);
}

OPENVPN_EXPORT int openvpn_plugin_func_v2(openvpn_plugin_handle_t handle, const int type, const char *argv[],
                                          const char *envp[], void *context, struct openvpn_plugin_string_list **list)
{
    return called(handle, type, argv, envp, context, -1, list);
}
#else
OPENVPN_EXPORT int openvpn_plugin_open_v3(const int version, struct openvpn_plugin_args_open_in const *in,
                                          struct openvpn_plugin_args_open_return *out)
{
    if (version < OPENVPN_PLUGINv3_STRUCTVER || in->ovpn_version_major != 2 || !in->callbacks->plugin_vlog)
        return OPENVPN_PLUGIN_FUNC_ERROR;
    unsigned mask;
    struct plugin *plugin = opened((const char *const *)in->argv, (const char *const *)in->envp, &mask);
    if (!plugin)
        return OPENVPN_PLUGIN_FUNC_ERROR;
    plugin->callbacks = in->callbacks;
    out->type_mask = (int)mask;
    out->handle = plugin;
    return OPENVPN_PLUGIN_FUNC_SUCCESS;
}

OPENVPN_EXPORT int openvpn_plugin_func_v3(const int version, struct openvpn_plugin_args_func_in const *in,
                                          struct openvpn_plugin_args_func_return *out)
{
    (void)version;
    if (in->current_cert)
        return OPENVPN_PLUGIN_FUNC_ERROR;
    return called(in->handle, in->type, (const char *const *)in->argv, (const char *const *)in->envp,
                  in->per_client_context, in->current_cert_depth, out->return_list);
}
#endif
