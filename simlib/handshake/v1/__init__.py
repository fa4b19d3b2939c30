"""Today's stream, as QEMU 5.2 to 11.2 speak it: nobody negotiates, and each side goes by its own settings.

source, migration_thread    `migrate`, and the thread that writes the stream
destination, channels       `migrate-incoming`, and what it knows of each connection
states                      stages and kinds of connections
"""
