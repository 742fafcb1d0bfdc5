/* A PAM module for tests. Each argument of its line in the service is one step:
 *   info:TEXT         tell the user
 *   off:PROMPT=REPLY  ask, hiding what is typed; anything but REPLY is a no
 *   on:PROMPT=REPLY   ask, showing it
 *   item:N=TEXT       the item of this number must be TEXT
 *   sleep:SECONDS     block
 *   crash             end by a signal
 *   code:N            end with this code
 * '_' stands for a blank, '^' for an escape character. Declarations are ours, so that no headers are needed. */
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct message { int style; const char *text; };
struct response { char *text; int code; };
struct conv {
	int (*talk)(int, const struct message **, struct response **, void *);
	void *data;
};
int pam_get_item(const void *handle, int item, const void **value);

static int talk(void *handle, int style, const char *text, char **reply)
{
	const void *item = NULL;
	struct message message = { style, text };
	const struct message *messages[1] = { &message };
	struct response *responses = NULL;
	if (pam_get_item(handle, 5, &item) != 0 || item == NULL)
		return 19;
	const struct conv *conv = item;
	int code = conv->talk(1, messages, &responses, conv->data);
	if (code == 0 && responses != NULL) {
		if (reply != NULL)
			*reply = responses[0].text;
		free(responses);
	}
	return code;
}

static int step(void *handle, char *word)
{
	for (char *c = word; *c; c++)
		*c = *c == '_' ? ' ' : *c == '^' ? '\033' : *c;
	char *text = strchr(word, ':');
	if (text != NULL)
		*text++ = 0;
	char *expected = text != NULL ? strchr(text, '=') : NULL;
	if (expected != NULL)
		*expected++ = 0;
	if (strcmp(word, "crash") == 0)
		abort();
	if (strcmp(word, "sleep") == 0)
		return sleep(atoi(text)), 0;
	if (strcmp(word, "code") == 0)
		return atoi(text);
	if (strcmp(word, "info") == 0)
		return talk(handle, 4, text, NULL);
	if (strcmp(word, "item") == 0) {
		const void *value = NULL;
		pam_get_item(handle, atoi(text), &value);
		return value != NULL && strcmp(value, expected) == 0 ? 0 : 4;
	}
	char *reply = NULL;
	int code = talk(handle, strcmp(word, "on") == 0 ? 2 : 1, text, &reply);
	if (code != 0)
		return code;
	code = reply != NULL && strcmp(reply, expected) == 0 ? 0 : 7;
	free(reply);
	return code;
}

int pam_sm_authenticate(void *handle, int flags, int argc, const char **argv)
{
	(void)flags;
	for (int n = 0; n < argc; n++) {
		char *word = strdup(argv[n]);
		int code = step(handle, word);
		free(word);
		if (code != 0)
			return code;
	}
	return 0;
}

int pam_sm_acct_mgmt(void *handle, int flags, int argc, const char **argv)
{
	return pam_sm_authenticate(handle, flags, argc, argv);
}

int pam_sm_setcred(void *handle, int flags, int argc, const char **argv)
{
	(void)handle, (void)flags, (void)argc, (void)argv;
	return 0;
}
