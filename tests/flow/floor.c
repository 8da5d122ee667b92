/* Linked with one floor of the house, all of it, and with those below: a symbol of a higher floor
 * is one that the linker does not find. */
int main(void) {
    return 0;
}
