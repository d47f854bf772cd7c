"""llama.cpp, made safe to hold. Nothing else imports `llama_cpp`."""
