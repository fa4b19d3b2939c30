"""What is the same wherever a simulated QEMU runs: its process (`host`), and the manager that commands two of them
(`management`). Time and bytes come from the runner."""
