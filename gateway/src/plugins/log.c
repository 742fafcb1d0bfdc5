/*
 * What a plugin gets as its log: one line to standard error, which the gateway reads. It works in every process that a
 * plugin forks, too. A line starts with "<N>", N being the severity of syslog.
 */
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

/* Below PIPE_BUF, so that lines of several processes do not mix. */
enum { LINE = 2048 };
/* Flags of a message, by the plugin interface. */
enum { FLAG_ERROR = 1, FLAG_WARN = 2, FLAG_DEBUG = 8, FLAG_ERRNO = 256 };

void tessera_plugin_vlog(int flags, const char *name, const char *format, va_list arguments);
void tessera_plugin_log(int flags, const char *name, const char *format, ...);

static size_t end_of(int written, size_t used)
{
    if (written < 0)
        return used;
    return used + (size_t)written < LINE - 1 ? used + (size_t)written : LINE - 2;
}

void tessera_plugin_vlog(int flags, const char *name, const char *format, va_list arguments)
{
    const int error = errno;
    /* The interface shows only messages that name their plugin. */
    if (name == NULL || format == NULL)
        return;
    char line[LINE];
    const int severity = flags & FLAG_ERROR ? 3 : flags & FLAG_WARN ? 4 : flags & FLAG_DEBUG ? 7 : 6;
    size_t used = end_of(snprintf(line, LINE - 1, "<%d>%s: ", severity, name), 0);
    used = end_of(vsnprintf(line + used, LINE - 1 - used, format, arguments), used);
    if (flags & FLAG_ERRNO) {
        errno = error;
        used = end_of(snprintf(line + used, LINE - 1 - used, ": %m"), used);
    }
    for (size_t i = 0; i < used; i++)
        if (line[i] == '\n' || line[i] == '\r')
            line[i] = ' ';
    line[used++] = '\n';
    /* Where nobody reads, there is nobody to tell either. */
    const ssize_t ignored = write(STDERR_FILENO, line, used);
    (void)ignored;
    errno = error;
}

void tessera_plugin_log(int flags, const char *name, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    tessera_plugin_vlog(flags, name, format, arguments);
    va_end(arguments);
}
