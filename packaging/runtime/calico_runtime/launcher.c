/* The one native program of a package's Python runtime: an interpreter that no environment can lead astray.
 *
 * Every program of the package is a symbolic link to it. The name that the kernel executed (AT_EXECFN, whatever argv[0]
 * says) decides what runs: a name of PROGRAMS calls that function, any other name is a plain isolated interpreter, which
 * is what `#!.../bin/python3` lines need. So a running agent shows the argv that it was started with (`calico-node -felix`,
 * docs/spec/dcos.md 8.5), and no shell or second interpreter stands in between.
 *
 * Isolated (PEP 587): no PYTHON* variable, no user site, no site module, UTF-8 whatever LANG says, no .pyc is written.
 * Everything is found from this file's own place (/proc/self/exe): <runtime>/bin/python3, <runtime>/lib/python3.11.
 * What children must not inherit is dropped here, once for all programs: LD_LIBRARY_PATH (libraries of DC/OS would get into
 * host tools), PYTHON*; PATH is completed by the folders in which hosts have nft, ip and iptables.
 *
 * Compiled with PROGRAMS_H, a header that the builder writes: {"name", "module:function"} lines. */
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <unistd.h>

static const struct {
    const char *name, *entry;
} PROGRAMS[] = {
#include PROGRAMS_H
    {NULL, NULL},
};

static const char *const FOLDERS[] = {"/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"};
#define FOLDER_COUNT (sizeof FOLDERS / sizeof *FOLDERS)
#define LONGEST_PATH 4096

extern char **environ;

static _Noreturn void fail(const char *what, const char *detail) {
    fprintf(stderr, "calico runtime: %s: %s\n", what, detail);
    exit(70);
}

static int has_folder(const char *path, const char *folder) {
    size_t length = strlen(folder);
    for (const char *at = path; *at != '\0'; at += strcspn(at, ":"), at += *at == ':')
        if (strcspn(at, ":") == length && strncmp(at, folder, length) == 0)
            return 1;
    return 0;
}

static void complete_path(void) {
    const char *old = getenv("PATH");
    old = old != NULL ? old : "";
    size_t size = strlen(old) + 1;
    for (size_t i = 0; i < FOLDER_COUNT; i++)
        size += strlen(FOLDERS[i]) + 1;
    char *path = malloc(size);
    if (path == NULL)
        fail("out of memory", "PATH");
    strcpy(path, old);
    for (size_t i = 0; i < FOLDER_COUNT; i++)
        if (!has_folder(old, FOLDERS[i])) {
            if (*path != '\0')
                strcat(path, ":");
            strcat(path, FOLDERS[i]);
        }
    setenv("PATH", path, 1);
    free(path);
}

static void clean_environment(void) {
    unsetenv("LD_LIBRARY_PATH");
    char **kept = environ; /* also an entry without "=", which unsetenv does not find */
    for (char **entry = environ; *entry != NULL; entry++)
        if (strncmp(*entry, "PYTHON", 6) != 0)
            *kept++ = *entry;
    *kept = NULL;
    complete_path();
}

/* The entry of the program that was asked for, or NULL: the interpreter itself. */
static const char *entry_of(void) {
    const char *path = (const char *)getauxval(AT_EXECFN);
    const char *slash = path != NULL ? strrchr(path, '/') : NULL;
    const char *name = slash != NULL ? slash + 1 : path != NULL ? path : "";
    for (int i = 0; PROGRAMS[i].name != NULL; i++)
        if (strcmp(PROGRAMS[i].name, name) == 0)
            return PROGRAMS[i].entry;
    return NULL;
}

static void check(PyStatus status) {
    if (PyStatus_Exception(status))
        Py_ExitStatusException(status);
}

static void add_folder(PyConfig *config, const char *runtime, const char *below) {
    char path[LONGEST_PATH + 64];
    snprintf(path, sizeof path, "%s%s", runtime, below);
    wchar_t *wide = Py_DecodeLocale(path, NULL);
    if (wide == NULL)
        fail("out of memory", path);
    check(PyWideStringList_Append(&config->module_search_paths, wide));
    PyMem_RawFree(wide);
}

static void find_runtime(char *runtime) {
    ssize_t length = readlink("/proc/self/exe", runtime, LONGEST_PATH - 1);
    if (length <= 0)
        fail("cannot find the runtime", "/proc/self/exe cannot be read: is /proc mounted?");
    runtime[length] = '\0';
    for (int i = 0; i < 2; i++) {
        char *slash = strrchr(runtime, '/');
        if (slash == NULL)
            fail("cannot find the runtime", runtime);
        *slash = '\0';
    }
}

static void call(PyConfig *config, const char *entry) {
    char module[256], text[1024];
    size_t length = strcspn(entry, ":");
    snprintf(module, sizeof module, "%.*s", (int)length, entry);
    const char *function = entry[length] == ':' ? entry + length + 1 : "main";
    snprintf(text, sizeof text, "import sys\nfrom %s import %s as _main\nsys.exit(_main())\n", module, function);
    check(PyConfig_SetBytesString(config, &config->run_command, text));
}

int main(int argc, char **argv) {
    char runtime[LONGEST_PATH], path[LONGEST_PATH + 64];
    find_runtime(runtime);
    clean_environment();
    const char *entry = entry_of();

    PyPreConfig before;
    PyPreConfig_InitIsolatedConfig(&before);
    before.utf8_mode = 1;
    check(Py_PreInitialize(&before));

    PyConfig config;
    PyConfig_InitIsolatedConfig(&config);
    config.parse_argv = entry == NULL;
    config.site_import = 0;
    config.write_bytecode = 0;
    config.install_signal_handlers = 1;
    check(PyConfig_SetBytesString(&config, &config.home, runtime));
    snprintf(path, sizeof path, "%s/bin/python3", runtime);
    check(PyConfig_SetBytesString(&config, &config.program_name, path));
    check(PyConfig_SetBytesString(&config, &config.executable, path));
    config.module_search_paths_set = 1;
    add_folder(&config, runtime, "/lib/python3.11");
    add_folder(&config, runtime, "/lib/python3.11/lib-dynload");
    add_folder(&config, runtime, "/lib/python3.11/site-packages");
    check(PyConfig_SetBytesArgv(&config, argc, argv));
    if (entry != NULL)
        call(&config, entry);
    check(Py_InitializeFromConfig(&config));
    PyConfig_Clear(&config);
    return Py_RunMain();
}
